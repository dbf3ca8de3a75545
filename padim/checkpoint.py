"""Reading a model file back, with an error that says what is wrong with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from padim.backbone import Layer
from padim.lightning import CHECKPOINT_FORMAT, UNFINISHED, LitPaDiM, unfinished
from padim.weights import load_archive, reason

LONGEST = 300
"""Characters of an error that are quoted: torch lists all entries of a state dict."""

NOT_YET = ("calibration.limits", "calibration.tail")
"""Entries that are NaN or infinite throughout where there is nothing to say."""


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
    checkpoint = read_checkpoint(path)
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
    try:
        module = LitPaDiM(**checkpoint["hyper_parameters"])
        _require_sound(checkpoint["state_dict"], module.model.backbone.layers)
        module.load_state_dict(checkpoint["state_dict"])
        module.on_load_checkpoint(checkpoint)
    except Exception as error:  # as above: what is wrong may show anywhere
        lacks = "it has no " * isinstance(error, KeyError)
        text = " ".join(str(error).split())[:LONGEST]
        raise CheckpointError(f"{path} is no sound model: {lacks}{text}") from error
    return module


def _require_sound(state: Mapping[str, Tensor], layers: Sequence[Layer]) -> None:
    """Raise a `ValueError` where entries hold what no fit gives."""
    for name, value in state.items():
        finite = value.isfinite()
        if not (finite.all() or (name.endswith(NOT_YET) and not finite.any())):
            raise ValueError(f"{name} holds NaN or infinity")
    for i, layer in enumerate(layers):
        channels = state[f"model.channels_{i}"]
        if not ((channels >= 0) & (channels < layer.channels)).all():
            raise ValueError(f"model.channels_{i} goes beyond the {layer.channels} of {layer.name}")
    if (count := int(state["model.statistics.count"])) < 1:
        raise ValueError(f"it is a model of {count} images")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a file of `torch.save`, unless it is damaged.

    Raises:
        CheckpointError: it is damaged, or holds anything but a dict of plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        checkpoint = load_archive(path, mmap=True)
    except Exception as error:  # damage surfaces as almost any error of the unpickler
        raise CheckpointError(f"{path} is truncated or no checkpoint ({reason(error)})") from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} is a checkpoint of another project, not of a PaDiM")
    return checkpoint
