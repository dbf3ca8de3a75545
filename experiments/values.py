"""Checks of configured values that Hydra takes as they come."""

from omegaconf import DictConfig


def flag(config: DictConfig, key: str) -> bool:
    """A value that is true or false; Hydra reads `off` and `no` as text, which would be true.

    Raises:
        ValueError: it is neither.
    """
    value = config[key]
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {value!r}")
    return value
