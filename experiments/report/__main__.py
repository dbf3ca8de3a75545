"""`python -m experiments.report`: the command as a Hydra app."""

from experiments.app import launch

launch("report")
