"""Hydra configuration groups; every object that a run uses is named here by `_target_`."""
