"""`python -m experiments.benchmark`: the command as a Hydra app."""

from experiments.app import launch

launch("benchmark")
