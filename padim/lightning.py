"""PaDiM under a Lightning trainer: one epoch of statistics, then the covariances."""

import math
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
from padim.distributed import gather_everywhere, gather_tensors_to_first, merge_samples
from padim.level_maps import level_maps
from padim.metrics import ImageMetrics, PixelMetrics
from padim.model import PaDiM, Prediction
from padim.sample import fingerprints, image_keys, joined_fingerprints

CHECKPOINT_FORMAT = 3
"""Raised whenever older files can no longer be read."""

UNFINISHED = "padim_unfinished"
"""Entry of a checkpoint written in the middle of a fit: the number of images seen till then."""

FINGERPRINTS = "padim_fingerprints"
"""Entry of a checkpoint: see `LitPaDiM.fingerprints`; files of earlier versions have none."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Of a trainer; autocast is switched off in all of the model, so the mixed ones change nothing."""


class LitPaDiM(LightningModule):
    """Fit a PaDiM in a single training epoch and measure it on test images, under any `Trainer`.

    Nothing is trained: there is no loss and no optimiser, and a fit is one epoch whatever the
    trainer's `max_epochs`. Of several processes (see `GradientFreeDDP`) all have the model of all
    images after a fit, and the first alone has the metrics after a test.

    A batch is a dict, or a bare tensor of images, or a sequence of images and labels. Its entries:

    - `image`: uint8 RGB (B, 3, H, W). In its place a test batch may have `embedding`, one
      (G_l, d_l, B) tensor a level.
    - `path`: B strings, optional. They name the images in errors, and say which of them are sampled
      for shrinkage and calibration; without them the order of the images does.
    - `label`: (B,) with 1 for anomalous, of test batches.
    - `ignored`: bool (B, H, W), optional: pixels of each image that are not looked at, beside those
      that the model ignores in every image. They count in no score, metric or picture of it; the
      statistics of a fit have them.
    - `mask`: bool (B, H, W), optional; or, to measure at the resolution of the original images, a
      list of B masks of their sizes beside `window` (B, 4), the part of each original that `image`
      shows (see `place_in_original`). Images for which `mask_known`, bool (B,), is false have no
      pixel measured.

    A fit logs `fit/images_per_s` (images a second so far, of all processes) at each step, and the
    seconds of its phases (`fit/decode_s`, ...) at its end. A test logs `image/*`, `pixel/*`,
    `cost/*`, `shrinkage/*`, `threshold/*` and `verdict/*`.

    The checkpoint holds the configuration, the backbone's weights, the channels and the
    statistics; the covariances follow from them on loading.

    Args:
        model: a PaDiM, or the `config` of one, to be followed by a state dict.
        data: plain description of the data the model is fitted on, kept in the checkpoint.
        accumulate: whether the images of a fit are added to those that the model has seen. They
            must be others: an image that is seen twice counts twice.

    Attributes:
        by_level: whether scoring also returns what each level adds to the maps (see `level_maps`).
        seconds: time spent in each phase: `decode` (waiting for images), `backbone`,
            `statistics`, `covariances`, `threshold` and `score`.
        fingerprints: by the pixels, of the images that the model has seen; of many, a sample (see
            `joined_fingerprints`). Where two models share some they have seen the same images.
        repeated: number of images of the last fit that the model had seen before it, as far as
            `fingerprints` say.
        beside: values found elsewhere, by name, that are logged with the metrics of a test.
        curves: points of the curves of the last test epoch, by name: "image/roc", "image/pr",
            "pixel/roc", "pixel/pr" and "pixel/pro", without those that are undefined.
    """

    def __init__(
        self,
        model: PaDiM | dict[str, Any],
        data: Mapping[str, Any] | None = None,
        accumulate: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model if isinstance(model, PaDiM) else PaDiM.from_config(model)
        self.save_hyperparameters({"model": self.model.config, "data": dict(data or {})})
        self.accumulate = accumulate
        self.image_metrics = ImageMetrics()
        self.pixel_metrics = PixelMetrics()
        self.by_level = False
        self.seconds: dict[str, float] = {}
        self.fingerprints = torch.empty(0, dtype=torch.int64)
        self.repeated = 0
        self.beside: dict[str, float] = {}
        self.curves: dict[str, CurvePoints] = {}
        self._unfinished = False
        self._scored = 0

    def forward(self, images: Tensor) -> Prediction:
        """Image scores (B,) and anomaly maps (B, H, W) of uint8 images (B, 3, H, W)."""
        prediction: Prediction = self.model(images)
        return prediction

    def configure_optimizers(self) -> list[Any]:
        """None: the statistics are sums, not the outcome of a descent."""
        return []

    def setup(self, stage: str) -> None:
        """Refuse a precision of the trainer that would convert statistics and weights.

        Raises:
            ValueError: it is not 32-true, 16-mixed or bf16-mixed.
        """
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"Trainer(precision={self.trainer.precision!r}) does not keep statistics and"
                f" covariances in float32, as they have to be: choose {' or '.join(PRECISIONS)}."
                " Backbone(bf16=True) runs the backbone alone in 16 bits"
            )

    def on_fit_start(self) -> None:
        """See to it that the fit is one epoch of images not seen before.

        Raises:
            RuntimeError: images have been seen, and they are not to be accumulated.
        """
        self._seen_before = int(self.model.statistics.count)
        self._known, self.repeated = self.fingerprints, 0
        if self._seen_before and not self.accumulate:
            raise RuntimeError(
                f"the model has seen {self._seen_before} images already, and a second fit would add"
                " to them: fit a new module, or give this one accumulate=True to add new images"
            )
        self.train()  # scoring has left it in eval mode, of which Lightning would warn
        loop = self.trainer.fit_loop
        self._max_epochs = loop.max_epochs  # a trainer may go on to fit something else
        # Lightning has read the trainer's own limit by now, and counts the epochs of all its fits.
        loop.epoch_progress.reset()
        loop.max_epochs = 1

    def on_train_start(self) -> None:
        if self.global_rank:  # what was seen before is the first process's to add
            self.model.statistics.clear()
            if self.model.sample:
                self.model.sample.replace([], self.model.sample.keys[:0], 0)

    def on_train_epoch_start(self) -> None:
        self._unfinished = True
        self.seconds.clear()
        self._images = 0
        self._epoch_start = time.perf_counter()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        batch = _named(batch)
        with self._clock("backbone"):
            maps = self.model.backbone(batch["image"])
        with self._clock("statistics"):
            self.model.accumulate(maps, self._keys(batch))
            own = fingerprints(batch["image"])
            self.repeated += int(torch.isin(own, self._known).sum())
            self.fingerprints = joined_fingerprints(self.fingerprints, own)
        # Without an optimiser `trainer.global_step` would stay 0, and callbacks such as
        # `ModelCheckpoint` do nothing at a step at which they have been already.
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.increment_by(1)
        size = len(batch["image"])
        self._images += size
        speed = self._images / (time.perf_counter() - self._epoch_start)
        self._log({"fit/images_per_s": speed * self.trainer.world_size}, batch_size=size)

    def on_train_epoch_end(self) -> None:
        """Complete the model, all but the covariances: what a checkpoint of Lightning's holds.

        Callbacks that write checkpoints have their turn after this.

        Raises:
            ValueError: all images are the same.
        """
        self.trainer.strategy.barrier()
        elapsed = time.perf_counter() - self._epoch_start
        self.seconds["decode"] = elapsed - sum(self.seconds.values())
        with self._clock("statistics"):
            self.model.statistics.all_reduce()
            if self.model.sample:
                merge_samples(self.model.sample)
            self.fingerprints = joined_fingerprints(*gather_everywhere(self.fingerprints))
            self.repeated = sum(gather_everywhere(self.repeated))
        with self._clock("covariances"):
            self.model.choose()
        with self._clock("threshold"):
            self.model.calibrate()
        self._unfinished = False
        self._log({f"fit/{phase}_s": seconds for phase, seconds in self.seconds.items()})

    def on_train_end(self) -> None:
        with self._clock("covariances"):
            self.model.factor()

    def on_fit_end(self) -> None:
        """Give the trainer its `max_epochs` back.

        Raises:
            ValueError: no image was seen.
        """
        self.trainer.fit_loop.max_epochs = self._max_epochs
        if self.model.statistics.count == self._seen_before:
            raise ValueError(
                "no image was seen: the training data gives no batch, or the trainer's"
                f" limit_train_batches={self.trainer.limit_train_batches} or"
                f" max_steps={self.trainer.max_steps} allows none"
            )

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Score a batch.

        Returns:
            "scores" (B,), "maps" (B, H, W), where pixels are ignored "ignored", bool (B, H, W), and
            where `by_level` is true "levels": names of levels to (B, H, W).

        Raises:
            ValueError: a score is NaN, or no pixel of an image is looked at.
        """
        batch = _named(batch)
        with self._clock("score"):
            known = batch.get("embedding")
            embedding = known or self.model.embed(self.model.backbone(batch["image"]))
            own, ignored = batch.get("ignored"), self.model.ignored
            if own is not None:
                ignored = own = own if ignored is None else own | ignored
            outputs: dict[str, Any] = self.model.score(embedding, own)._asdict()
        undefined = outputs["scores"].isnan()
        if ignored is not None:
            outputs["ignored"] = ignored.expand_as(outputs["maps"])
            undefined |= outputs["ignored"].flatten(1).all(dim=1)
        if undefined.any():
            i = int(undefined.nonzero()[0])
            name = batch["path"][i] if "path" in batch else f"image {i} of batch {batch_idx}"
            why = "" if outputs["scores"][i].isnan() else ": all its pixels are ignored"
            raise ValueError(f"the anomaly score of {name} is NaN{why}")
        if self.by_level:
            outputs["levels"] = level_maps(self.model, embedding, own)
        return outputs

    def on_test_epoch_start(self) -> None:
        self.seconds.pop("score", None)
        self._scored = 0
        # Of normal and anomalous images (rows) those not called anomalous and those that are.
        self._verdicts = torch.zeros(2, 2, dtype=torch.int64, device=self.device)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """As `predict_step`, and measure the scores.

        Returns:
            Also "measured", a list of B bools: whether the pixels of an image are measured.

        Raises:
            ValueError: a batch has no labels.
        """
        batch = _named(batch)
        if "label" not in batch:
            raise ValueError(f"test batches need `label`, 1 for anomalous; got {', '.join(batch)}")
        outputs = self.predict_step(batch, batch_idx)
        scores, maps, labels = outputs["scores"], outputs["maps"], batch["label"]
        self._scored += len(scores) * ("embedding" not in batch)
        self.image_metrics.update(scores, labels)
        calibration = self.model.calibration
        if calibration and calibration.thresholds:
            called = (scores >= calibration.thresholds[0]).long()
            self._verdicts += torch.bincount(2 * labels + called, minlength=4).view(2, 2)
        known = batch.get("mask_known", labels >= 0).tolist()
        measured = [i for i, is_known in enumerate(known) if is_known and "mask" in batch]
        outputs["measured"] = [i in measured for i in range(len(known))]
        ignored, cells = outputs.get("ignored"), math.prod(self.model.levels.grids[0])
        if "window" in batch:
            for i in measured:
                mask = batch["mask"][i]
                place = window, _ = batch["window"][i], mask.shape
                cell = float((window[2:] - window[:2]).prod()) / cells
                placed, hidden = place_in_original(maps[i], *place), None
                if ignored is not None:
                    hidden = place_in_original(ignored[i].float(), *place) > 0.5
                self.pixel_metrics.update(placed[None], mask[None], hidden, cell)
        elif measured:
            hidden = None if ignored is None else ignored[measured]
            masks, cell = batch["mask"][measured], maps[0].numel() / cells
            self.pixel_metrics.update(maps[measured], masks, hidden, cell)
        if not measured:  # every process takes part in what is gathered, also with nothing
            self.pixel_metrics.update(maps[:0], maps[:0])
        return outputs

    def on_test_epoch_end(self) -> None:
        self.trainer.strategy.barrier()
        self.curves = {}
        logged: dict[str, Any] = {}
        for group, metrics in (("image", self.image_metrics), ("pixel", self.pixel_metrics)):
            metrics.dist_sync_fn = gather_tensors_to_first
            values = metrics.compute()  # in all but the first process of their own images alone
            logged |= {f"{group}/{name}": value.float() for name, value in values.items()}
            self.curves |= {f"{group}/{name}": points for name, points in metrics.curves.items()}
            metrics.reset()
        self._verdicts = self.trainer.strategy.reduce(self._verdicts, reduce_op="sum")
        self._log(logged | self._costs() | self._decisions() | self.beside)

    def _costs(self) -> dict[str, float]:
        """Seconds of the fit, seconds to score an image, if it was done whole, and gigabytes."""
        costs = {"cost/state_gb": self.model.statistics.nbytes / 1e9}
        if "statistics" in self.seconds:
            costs["cost/fit_s"] = sum(v for phase, v in self.seconds.items() if phase != "score")
        if self._scored:
            costs["cost/image_s"] = self.seconds["score"] / self._scored
        return costs

    def _decisions(self) -> dict[str, float]:
        """The shrinkage chosen, the thresholds, and how they judge the images."""
        found: dict[str, float] = {}
        if choice := self.model.shrinkage_choice:
            found |= {"shrinkage/amount": choice.coefficient, "shrinkage/gain": choice.gain}
        calibration = self.model.calibration
        if calibration is None or calibration.thresholds is None:
            return found
        if not calibration.fixed and calibration.rate is not None:
            found["threshold/false_alarm_rate"] = calibration.rate
        found["threshold/image"], found["threshold/pixel"] = calibration.thresholds
        names = "verdict/false_alarm_rate", "verdict/recall"
        for name, (missed, called) in zip(names, self._verdicts.tolist(), strict=True):
            if missed + called:
                found[name] = called / (missed + called)
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["padim_format"] = CHECKPOINT_FORMAT
        checkpoint[FINGERPRINTS] = self.fingerprints
        checkpoint["hyper_parameters"]["model"] = self.model.config  # calibration may have changed
        if self._unfinished:
            checkpoint[UNFINISHED] = int(self.model.statistics.count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that is no model.

        Raises:
            RuntimeError: it was written in the middle of a fit.
        """
        if UNFINISHED in checkpoint:
            raise RuntimeError(unfinished(checkpoint))
        self.fingerprints = checkpoint.get(FINGERPRINTS, self.fingerprints)

    def _keys(self, batch: Mapping[str, Any]) -> Tensor:
        """Keys (B,) of the images, the same in any number of processes if they have paths."""
        if "path" in batch:
            return image_keys(map(_own_name, batch["path"]))
        first = (self.global_rank << 32) + int(self.model.statistics.count)
        return image_keys(range(first, first + len(batch["image"])))

    def _log(self, values: Mapping[str, float | Tensor], batch_size: int = 1) -> None:
        """Log what the first process has; numbers keep their precision."""
        if not self.trainer.is_global_zero:
            return
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        tensors = {
            name: value if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
            for name, value in values.items()
        }
        self.log_dict(tensors, rank_zero_only=True, batch_size=batch_size)

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


def unfinished(checkpoint: Mapping[str, Any]) -> str:
    """Say what is wrong with an unfinished checkpoint."""
    return (
        f"it was written in the middle of a fit, after {checkpoint[UNFINISHED]} images, and is no"
        " model: take one written at the end of the fit"
    )


def _named(batch: Any) -> Mapping[str, Any]:
    """A batch as a dict: a bare tensor is `image`, and a sequence is `image` and `label`."""
    if isinstance(batch, Mapping):
        return batch
    parts = [batch] if isinstance(batch, Tensor) else batch
    return dict(zip(("image", "label"), parts, strict=False))


def _own_name(path: str) -> tuple[str, ...]:
    """Folder and file, which name an image wherever its data set lies."""
    return PurePath(path).parts[-2:]
