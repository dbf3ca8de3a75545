"""One progress bar a phase, counting images."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm


class ImageProgress(Callback):
    """Images done, images a second and the time left; silent where there is no terminal."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open("Fitting", trainer.train_dataloader)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open("Evaluating", trainer.test_dataloaders)

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

    def _open(self, phase: str, loader: Any) -> None:
        # A stream's length is in batches, as Lightning wants it.
        total = getattr(loader.dataset, "images", None) or len(loader.dataset)
        self._bar = tqdm(desc=phase, total=total, unit="img", disable=None, dynamic_ncols=True)
