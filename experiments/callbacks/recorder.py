"""Scores of all test images, and maps of those that may be drawn, kept in memory."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from experiments.drawing.pictures import Scale
from padim import ImageMetrics, LitPaDiM, PixelMetrics, place_in_original
from padim.distributed import gather_tensors_to_first, gather_to_first, is_first


class Pool:
    """The test images of several runs, measured at once and in constant memory.

    Args:
        false_alarm_rate: as of `ImageMetrics`.
    """

    def __init__(self, false_alarm_rate: float | None = None) -> None:
        self.image_metrics = ImageMetrics(None, false_alarm_rate)
        self.pixel_metrics = PixelMetrics(True, false_alarm_rate)

    def compute(self) -> dict[str, float]:
        """The metrics by name, as of a single run; in the first of several processes alone."""
        groups = {"image": self.image_metrics, "pixel": self.pixel_metrics}
        for metrics in groups.values():
            metrics.dist_sync_fn = gather_tensors_to_first
        values = {
            f"{group}/{name}": float(value)
            for group, metrics in groups.items()
            for name, value in metrics.compute().items()
        }
        return values if is_first() else {}


class Kept(NamedTuple):
    """What may be drawn of a test image, on the CPU.

    Attributes:
        anomaly_map: (h, w).
        size: (H, W) at which it is measured.
        window: (4,) what the map shows of an image of that size; None where h x w is the size.
        mask: bool (H, W); None where it is not known.
        image: uint8 (3, h, w), prepared; None where features stand in for it.
        levels: what each level adds to the map, (h, w) by name.
        ignored: bool (h, w), pixels that are not looked at; None for none.
    """

    anomaly_map: Tensor
    size: tuple[int, int]
    window: Tensor | None
    mask: Tensor | None
    image: Tensor | None
    levels: Mapping[str, Tensor]
    ignored: Tensor | None

    def placed(self, anomaly_map: Tensor) -> np.ndarray:
        """A map (h, w) at the resolution measured, (H, W)."""
        if self.window is not None:
            anomaly_map = place_in_original(anomaly_map, self.window, self.size)
        return anomaly_map.numpy()


class TestRecorder(Callback):
    """Keeps what the test epoch saw, for the callbacks that write or log it.

    Of maps and masks only those are kept that can become pictures, whatever the number of images.
    Of several processes the first has all entries when the epoch ends.

    Args:
        pictures: as many of the highest and of the lowest scores keep their maps, of the normal and
            of the anomalous images each.
        by_level: also keep what each level adds to a map.

    Attributes:
        columns: path, label (1 anomalous), defect, score and measured (whether its pixels are) of
            each image, in the data's order; of videos also video and frame.
        kept: by the number of the image.
        drawn: pictures of those chosen, once a callback has drawn them; see `chosen_pictures`.
        pool: takes all images as well, if there is one.
    """

    __test__ = False  # its name makes pytest curious

    def __init__(self, pictures: int, by_level: bool = False) -> None:
        self.pictures = pictures
        self.by_level = by_level
        self.pool: Pool | None = None
        self._clear()

    @staticmethod
    def of(trainer: Trainer) -> "TestRecorder":
        """The recorder among a trainer's callbacks; a ValueError if there is none."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TestRecorder):
                return callback
        raise ValueError("the callbacks lack a TestRecorder, which keeps what others write or log")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()
        if isinstance(pl_module, LitPaDiM):
            pl_module.by_level = self.by_level and self.pictures > 0

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        maps, labels = outputs["maps"].cpu(), batch["label"].tolist()
        first = len(self.columns.get("path", ()))
        columns = {
            "path": batch.get("path") or [str(first + i) for i in range(len(maps))],
            "label": labels,
            "defect": batch.get("defect") or [("good", "anomaly")[label] for label in labels],
            "score": outputs["scores"].tolist(),
            "measured": outputs.get("measured", [False] * len(maps)),
        }
        if "video" in batch:
            columns |= {"video": batch["video"], "frame": batch["frame"].tolist()}
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values)
        ignored = outputs["ignored"].cpu() if "ignored" in outputs else None
        if self.pool:
            self.pool.image_metrics.update(outputs["scores"].cpu(), batch["label"].cpu())
            self.pool.pixel_metrics.update(maps, batch["mask"].cpu(), ignored)
        if self.pictures:
            some = maps[:, ::16, ::16] if ignored is None else maps[~ignored][::256]
            self._pixels.append(some.flatten())
            self._peaks.append(maps.amax(dim=(1, 2)))
            self._keep(first, maps, batch, outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:
            return
        trainer.strategy.barrier()
        # Each process has a share of the images in a row, so their order is the data's.
        own = self.columns, self.kept, self._pixels, self._peaks
        for columns, kept, pixels, peaks in gather_to_first(own)[1:]:
            first = len(self.columns["path"])
            self.kept |= {first + i: one for i, one in kept.items()}
            for name, values in columns.items():
                self.columns[name] += values
            self._pixels += pixels
            self._peaks += peaks
        if self.pictures:
            self._prune()

    def predictions(self, module: LitPaDiM) -> pd.DataFrame:
        """The test images sorted by path: path, label, defect, score.

        Also p_value where the model is calibrated, verdict, 1 anomalous, where it has a threshold,
        and aupimo where that is defined.
        """
        table, calibration = self.table, module.model.calibration
        if (aupimo := module.pixel_metrics.aupimo) is not None:
            table.loc[table["measured"], "aupimo"] = aupimo.numpy()
        # Workers with a video each mix batches.
        table = table.filter(["path", "label", "defect", "score", "aupimo"]).sort_values("path")
        if calibration and calibration.rate:
            scores = torch.tensor(table["score"].to_numpy(), dtype=torch.float32)
            p_values = calibration.p_value(scores.to(calibration.scores.device))
            table["p_value"] = p_values.cpu().numpy()
        if calibration and calibration.thresholds:
            table["verdict"] = (table["score"] >= calibration.thresholds[0]).astype(int)
        return table

    @property
    def table(self) -> pd.DataFrame:
        """A row for each image, in the data's order."""
        return pd.DataFrame(self.columns)

    @property
    def scale(self) -> Scale:
        """One scale of colours for all images."""
        return Scale.of_sample(torch.cat(self._pixels).numpy(), torch.cat(self._peaks).numpy())

    @property
    def top(self) -> float:
        """The highest score of any map."""
        return float(torch.cat(self._peaks).max())

    def _clear(self) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.drawn: list[Any] | None = None
        self.kept: dict[int, Kept] = {}
        self._pixels: list[Tensor] = []
        self._peaks: list[Tensor] = []

    def _keep(self, first: int, maps: Tensor, batch: Any, outputs: Mapping[str, Any]) -> None:
        nothing = [None] * len(maps)
        masks, windows, images = (batch.get(key, nothing) for key in ("mask", "window", "image"))
        levels, ignored = outputs.get("levels", {}), outputs.get("ignored", nothing)
        known = batch.get("mask_known", [mask is not None for mask in masks])
        for i, anomaly_map in enumerate(maps):
            self.kept[first + i] = Kept(
                anomaly_map,
                tuple((anomaly_map if masks[i] is None else masks[i]).shape),
                windows[i],
                masks[i] if known[i] else None,
                images[i],
                {name: part[i] for name, part in levels.items()},
                ignored[i],
            )
        self._prune()
        for i in [i for i in self.kept if i >= first]:  # or all of a batch would stay with it
            self.kept[i] = apply_to_collection(
                self.kept[i], Tensor, lambda part: part.cpu().clone()
            )

    def _prune(self) -> None:
        keep: set[int] = set()
        for label in (0, 1):  # what is not kept was no extreme of fewer images either
            members = [i for i in self.kept if self.columns["label"][i] == label]
            ranked = sorted(members, key=self.columns["score"].__getitem__)
            keep.update(ranked[: self.pictures], ranked[-self.pictures :])
        self.kept = {i: kept for i, kept in self.kept.items() if i in keep}
