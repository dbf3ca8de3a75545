"""What a fit has counted so far, on disk, so that one that is stopped can go on."""

import logging
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from padim import LitPaDiM, PaDiM
from padim.sample import EmbeddingSample

log = logging.getLogger(__name__)


class PartialFits(Callback):
    """Writes the statistics of the images so far, and which these are, into the run folder.

    Each process writes a file of its own. As statistics merge, a fit goes on from all of them in
    any number of processes, and no image is counted twice.

    Args:
        folder: of the run.
        every: number of images from one file to the next; None to write on SIGTERM alone.

    Raises:
        ValueError: `every` is not positive.
    """

    def __init__(self, folder: Path, every: int | None) -> None:
        if every is not None and every < 1:
            raise ValueError(
                f"trainer.checkpoint_every_n_images must be positive or null, got {every}"
            )
        self.folder = folder
        self.every = every
        self._counted: list[str] = []
        self._unwritten = 0

    def resume(self, model: PaDiM, merge: bool = True) -> set[str]:
        """Add what the files hold to a new model; return the paths of the images counted.

        Args:
            model: of the same configuration.
            merge: false in all processes but the first: to learn the paths alone.

        Raises:
            ValueError: a file is of another configuration.
        """
        parts = [torch.load(file, weights_only=True) for file in self._files()]
        counted: set[str] = set()
        # The first process takes over what it goes on from: it may hold what others hold.
        for part in sorted(parts, key=lambda part: len(part["paths"]), reverse=True):
            if part["model"] != model.config:
                raise ValueError(f"{self.folder} holds a part of a fit of another configuration")
            if counted.isdisjoint(part["paths"]):
                counted.update(part["paths"])
                if merge:
                    _add(part, model)
        if merge:
            self._counted = sorted(counted)
            log.info("%d images are counted already", len(counted))
        return counted

    def clear(self) -> None:
        """Remove the files: of a fit that is finished, or of another one."""
        for file in self._files():
            file.unlink()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._counted += batch["path"]
        self._unwritten += len(batch["path"])
        # Something is left to do for those that go on, or there would be no epoch to end.
        if self.every and self._unwritten >= self.every and not trainer.is_last_batch:
            self._write(trainer, pl_module)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, SIGTERMException) and trainer.training:
            if not trainer.is_last_batch:
                self._write(trainer, pl_module)  # it is raised between two batches
            log.info("Stopped by SIGTERM: go on with padim fit resume=%s", self.folder)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, LitPaDiM)
        model = module.model
        part: dict[str, Any] = {
            "model": model.config,
            "statistics": model.statistics.state_dict(),
            "paths": self._counted,
        }
        if sample := model.sample:
            part["sample"] = (sample.embedding, sample.keys, sample.seen)
        path = self.folder / f"partial_fit_{trainer.global_rank}.ckpt"
        torch.save(part, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)  # whole or not at all
        self._unwritten = 0
        log.info("%d images are counted so far (%s)", len(self._counted), path)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("partial_fit_*.ckpt"))


def _add(part: dict[str, Any], model: PaDiM) -> None:
    statistics = type(model.statistics)(model.statistics.levels)
    statistics.load_state_dict(part["statistics"])
    model.statistics.merge(statistics)
    if model.sample:
        sample = EmbeddingSample(model.sample.size)
        sample.replace(*part["sample"])
        model.sample.merge(sample)
