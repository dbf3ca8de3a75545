"""One progress bar a phase, counting images."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm


class ImageProgress(Callback):
    """Images done, images a second and the time left; silent where there is no terminal.

    Of several processes the first shows its own share, and says so.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open("Fitting", trainer, trainer.train_dataloader)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open("Evaluating", trainer, trainer.test_dataloaders)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._bar.update(len(batch["path"]))

    on_test_batch_end = on_train_batch_end  # type: ignore[assignment]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.close()

    on_test_epoch_end = on_train_epoch_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()

    def _open(self, phase: str, trainer: Trainer, loader: Any) -> None:
        if trainer.world_size > 1:
            phase = f"{phase}, 1 of {trainer.world_size} processes"
        total = image_count(loader)
        silent = None if trainer.is_global_zero else True
        self._bar = tqdm(desc=phase, total=total, unit="img", disable=silent, dynamic_ncols=True)


def image_count(loader: Any) -> int:
    """The number of images that a data loader gives."""
    # A stream's length is in batches, as Lightning wants it.
    return getattr(loader.dataset, "images", None) or len(loader.dataset)
