"""PaDiM under a Lightning trainer: one epoch of statistics, then the covariances."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from padim.anomaly_map import place_in_original
from padim.curve import CurvePoints
from padim.distributed import gather_tensors_to_first, merge_samples
from padim.metrics import ImageMetrics, PixelMetrics
from padim.model import PaDiM, Prediction
from padim.sample import image_keys

CHECKPOINT_FORMAT = 3
"""Raised whenever older files can no longer be read."""


class LitPaDiM(LightningModule):
    """Fits a PaDiM in a single training epoch and measures it on test images.

    Nothing is trained: there is no loss and no optimiser. Of several processes (see
    `GradientFreeDDP`) all have the model of all images after a fit, and the first alone has the
    metrics after a test.

    Batches are dicts with `image`, uint8 (B, 3, H, W), and `path`, a list of B strings; test
    batches also have `mask`, bool (B, H, W), and `label`, int (B,) with 1 for anomalous. To be
    measured at the resolution of the original images, `mask` is a list of B masks of their sizes,
    and `window` (B, 4) says what part of each `image` shows (see `place_in_original`). Images for
    which `mask_known`, bool (B,), is false have no pixel measured. In place of `image` a test batch
    may have the `embedding`, one (G_l, d_l, B) tensor a level.

    The checkpoint holds the configuration, the backbone's weights, the channels and the
    statistics; the covariances follow from them on loading.

    Args:
        model: a PaDiM, or the `config` of one, to be followed by a state dict.
        data: plain description of the data the model is fitted on, kept in the checkpoint.

    Attributes:
        in_place: whether a fit leaves the covariances to `factor_in_place`, after which the model
            cannot be saved any more; half the memory.
        seconds: time spent in each phase: `decode` (waiting for images), `backbone`,
            `statistics`, `covariances`, `threshold` and `score`.
        curves: points of the curves of the last test epoch, by name: "image/roc", "image/pr",
            "pixel/roc", "pixel/pr" and "pixel/pro", without those that are undefined.
    """

    def __init__(
        self, model: PaDiM | dict[str, Any], data: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model if isinstance(model, PaDiM) else PaDiM.from_config(model)
        self.save_hyperparameters({"model": self.model.config, "data": dict(data or {})})
        self.image_metrics = ImageMetrics()
        self.pixel_metrics = PixelMetrics()
        self.in_place = False
        self.seconds: dict[str, float] = {}
        self.curves: dict[str, CurvePoints] = {}

    def forward(self, images: Tensor) -> Prediction:
        """Image scores (B,) and anomaly maps (B, H, W) of uint8 images (B, 3, H, W)."""
        return self.model(images)

    def configure_optimizers(self) -> list[Any]:
        """None: the statistics are sums, not the outcome of a descent."""
        return []

    def on_train_start(self) -> None:
        if self.global_rank:  # what was seen before is the first process's to add
            self.model.statistics.clear()
            if self.model.sample:
                self.model.sample.replace([], self.model.sample.keys[:0], 0)

    def on_train_epoch_start(self) -> None:
        self.seconds.clear()
        self._epoch_start = time.perf_counter()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        with self._clock("backbone"):
            maps = self.model.backbone(batch["image"])
        with self._clock("statistics"):
            self.model.accumulate(maps, image_keys(map(_own_name, batch["path"])))

    def on_train_epoch_end(self) -> None:
        self.trainer.strategy.barrier()
        elapsed = time.perf_counter() - self._epoch_start
        self.seconds["decode"] = elapsed - sum(self.seconds.values())
        with self._clock("statistics"):
            self.model.statistics.all_reduce()
            if self.model.sample:
                merge_samples(self.model.sample)

    def on_train_end(self) -> None:
        with self._clock("covariances"):
            self.model.choose()
            if not self.in_place:
                self.model.factor()
        with self._clock("threshold"):
            self.model.calibrate()

    def factor_in_place(self) -> None:
        """Factor the covariances after a fit that was told to be `in_place`."""
        with self._clock("covariances"):
            self.model.factor(in_place=True)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        with self._clock("score"):
            known = batch.get("embedding")
            prediction = self.model.score(known) if known else self.model(batch["image"])
        for path, score in zip(batch["path"], prediction.scores.tolist(), strict=True):
            if score != score:
                raise ValueError(f"the anomaly score of {path} is NaN")
        self.image_metrics.update(prediction.scores, batch["label"])
        known = batch.get("mask_known", batch["label"] >= 0).tolist()
        measured = [i for i, is_known in enumerate(known) if is_known]
        if "window" in batch:
            for i in measured:
                mask = batch["mask"][i]
                placed = place_in_original(prediction.maps[i], batch["window"][i], mask.shape)
                self.pixel_metrics.update(placed[None], mask[None])
        elif measured:
            self.pixel_metrics.update(prediction.maps[measured], batch["mask"][measured])
        return prediction._asdict()

    def on_test_epoch_end(self) -> None:
        self.trainer.strategy.barrier()
        self.curves = {}
        for group, metrics in (("image", self.image_metrics), ("pixel", self.pixel_metrics)):
            metrics.dist_sync_fn = gather_tensors_to_first
            values = metrics.compute()
            if self.trainer.is_global_zero:  # the others know their own images alone
                named = {f"{group}/{name}": value.float() for name, value in values.items()}
                self.log_dict(named, rank_zero_only=True)
            self.curves |= {f"{group}/{name}": points for name, points in metrics.curves.items()}
            metrics.reset()

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self.model(batch["image"])._asdict()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.model.statistics.require()
        checkpoint["padim_format"] = CHECKPOINT_FORMAT
        checkpoint["hyper_parameters"]["model"] = self.model.config  # calibration may have changed

    @contextmanager
    def _clock(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase, waiting for the device on both sides."""
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _own_name(path: str) -> tuple[str, ...]:
    """What names an image wherever its data set lies: its folder and its file."""
    return PurePath(path).parts[-2:]
