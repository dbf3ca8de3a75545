"""The statistics of the images counted so far, on disk, so that a stopped fit can go on."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.files import replacing
from padim import LitPaDiM
from padim.checkpoint import read_checkpoint
from padim.sample import EmbeddingSample, joined_fingerprints

Stamp = tuple[int, int]
"""Size and time of a file."""

log = logging.getLogger(__name__)


class ResumeState(Callback):
    """Writes the statistics of the images so far, and which these are, into the run folder.

    Each process writes a file of its own. As statistics merge, a fit goes on from all of them in
    any number of processes, and no image is counted twice. The files are removed when the fit ends.

    Args:
        every_n_images: from one file to the next; None to write on SIGTERM alone.
    """

    def __init__(self, every_n_images: int | None) -> None:
        self.every_n_images = every_n_images
        self.folder = Path()
        self._counted: list[str] = []
        self._stamps: dict[str, Stamp] = {}
        self._unwritten = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The first process's: the others of a run have folders of their own, which go with them.
        self.folder = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        self._counted = sorted(getattr(trainer.datamodule, "counted", ()))  # type: ignore[attr-defined]
        self._stamps = _stamps(self._counted)
        if trainer.is_global_zero and not self._counted:
            clear(self.folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not (isinstance(batch, dict) and "path" in batch):
            return  # images without names cannot be distinguished from those counted before
        self._counted += batch["path"]
        self._stamps |= _stamps(batch["path"])
        self._unwritten += len(batch["path"])
        # Something is left to do for those that go on, or there would be no epoch to end.
        due = self.every_n_images and self._unwritten >= self.every_n_images
        if due and not trainer.is_last_batch:
            self._write(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException) and trainer.training:
            if not trainer.is_last_batch:
                self._write(trainer, pl_module)  # it is raised between two batches
            log.info("Stopped by SIGTERM: go on with padim fit resume=%s", self.folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            clear(self.folder)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, LitPaDiM)
        model = module.model
        state: dict[str, Any] = {
            "model": model.config,
            "statistics": model.statistics.state_dict(),
            "paths": self._counted,
            "files": self._stamps,
            "fingerprints": module.fingerprints,
            "bits": _bits(module),
        }
        if sample := model.sample:
            state["sample"] = (sample.embedding, sample.keys, sample.seen)
        path = self.folder / f"partial_fit_{trainer.global_rank}.ckpt"
        with replacing(path) as whole:
            try:
                torch.save(state, whole)
            except RuntimeError as error:  # so torch calls a full disk
                raise OSError(f"is the disk full? ({error})") from error
        self._unwritten = 0
        log.info("%d images are counted so far (%s)", len(self._counted), path)


def add_counted(folder: Path, module: LitPaDiM) -> set[str]:
    """Add the images that a stopped fit has counted to a new model; return their paths.

    Args:
        folder: of the run.
        module: has a model of the same configuration.

    Raises:
        CheckpointError: a file is damaged.
        ValueError: a file is of another configuration, or images have changed since.
    """
    model = module.model
    states = [read_checkpoint(file) for file in _files(folder)]
    counted: set[str] = set()
    # The first process takes over what it goes on from: it may hold what others hold.
    for state in sorted(states, key=lambda state: len(state.get("paths", ())), reverse=True):
        bits = state.get("bits", _bits(module))
        if state.get("model") != model.config or bits != _bits(module):
            raise ValueError(f"{folder} holds a part of a fit of another configuration")
        stamps = state.get("files", {})
        if changed := [path for path, stamp in stamps.items() if _stamp(path) != stamp]:
            raise ValueError(
                f"{changed[0]} is another file, or gone, since it was counted"
                f"{f', and {len(changed) - 1} more' * (len(changed) > 1)}: begin a new fit"
            )
        module.fingerprints = joined_fingerprints(
            module.fingerprints, state.get("fingerprints", module.fingerprints)
        )
        if counted.isdisjoint(state["paths"]):
            counted.update(state["paths"])
            statistics = type(model.statistics)(model.statistics.levels)
            statistics.load_state_dict(state["statistics"])
            model.statistics.merge(statistics)
            if model.sample:
                sample = EmbeddingSample(model.sample.size)
                sample.replace(*state["sample"])
                model.sample.merge(sample)
    log.info("%d images are counted already", len(counted))
    return counted


def _bits(module: LitPaDiM) -> int | None:
    """By which 16-bit images are read."""
    bits: int | None = (module.hparams["data"].get("preprocessing") or {}).get("bits")
    return bits


def clear(folder: Path) -> None:
    """Remove the files: of a fit that is finished, or of another one."""
    for file in _files(folder):
        file.unlink()


def _stamps(paths: Iterable[str]) -> dict[str, Stamp]:
    """Size and time, which change with the content, of the files of images or of frames."""
    files = {file for path in paths for file in (path, path.rpartition("#")[0])}
    return {file: stamp for file in files if (stamp := _stamp(file))}


def _stamp(file: str) -> Stamp | None:
    return (s.st_size, s.st_mtime_ns) if Path(file).is_file() and (s := os.stat(file)) else None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("partial_fit_*.ckpt"))
