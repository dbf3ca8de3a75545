"""Reading a model file back, with an error that says what is wrong with it."""

from pathlib import Path
from typing import Any

import torch

from padim.lightning import CHECKPOINT_FORMAT, UNFINISHED, LitPaDiM, unfinished
from padim.weights import reason


class CheckpointError(RuntimeError):
    """The file is no checkpoint that can be used here."""


def load_checkpoint(path: str | Path) -> LitPaDiM:
    """Load a fitted model on the CPU, ready to score.

    Args:
        path: a checkpoint, or the run folder that holds `model.ckpt`.

    Raises:
        CheckpointError: the file is missing, truncated, unfinished, or of another project or
            version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.ckpt"
    checkpoint = _read(path)
    found = checkpoint.get("padim_format")
    if found is None:
        raise CheckpointError(f"{path} is a checkpoint of another project, not of a PaDiM")
    if found != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {found}, this version reads {CHECKPOINT_FORMAT}:"
            " fit again, or install the version that wrote it"
        )
    if UNFINISHED in checkpoint:
        raise CheckpointError(f"{path} cannot be used: {unfinished(checkpoint)}")
    module = LitPaDiM(**checkpoint["hyper_parameters"])
    module.load_state_dict(checkpoint["state_dict"])
    module.on_load_checkpoint(checkpoint)
    return module


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # damage surfaces as almost any error of the unpickler
        raise CheckpointError(f"{path} is truncated or no checkpoint ({reason(error)})") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} is a checkpoint of another project, not of a PaDiM")
    return checkpoint
