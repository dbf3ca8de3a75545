"""Which exceptions are the user's to mend, and what to tell them."""

from hydra.errors import InstantiationException
from omegaconf.errors import OmegaConfBaseException

from datamodules import DataError
from padim import CheckpointError, WeightsError

MENDABLE = (DataError, CheckpointError, WeightsError, ValueError, OSError, OmegaConfBaseException)


def explain(error: BaseException) -> str | None:
    """One message for a mistake in input or configuration; None for what may be a bug."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        inner = explain(error.__cause__)
        place = str(error).rpartition("full_key: ")[2].strip()
        return inner and f"{inner} (in the configuration: {place})"
    return str(error) if isinstance(error, MENDABLE) else None
