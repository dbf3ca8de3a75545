"""What is kept of the test images."""

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.drawing.pictures import Scale
from padim import ImageMetrics, LitPaDiM, PaDiM, PixelMetrics, level_maps, place_in_original
from padim.distributed import gather_tensors_to_first, gather_to_first, is_first

LISTS = ("paths", "labels", "defects", "scores", "videos", "frames", "_pixels", "_peaks")
BY_IMAGE = ("_kept", "_levels")
"""Attributes of a `TestRecorder` that are lists of entries, or dicts by the entry's number."""


class Pool:
    """The test images of several runs, measured at once and in constant memory."""

    def __init__(self) -> None:
        self.image_metrics = ImageMetrics()
        self.pixel_metrics = PixelMetrics(binned=True)

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


class TestRecorder(Callback):
    """Keeps what the test epoch saw: one entry an image, in the data's order.

    Of maps and masks only those are kept that can become pictures, whatever the number of images.
    Of several processes the first has all entries when the epoch ends.

    Args:
        pictures: as many of the highest and of the lowest scores keep their maps, of the normal and
            of the anomalous images each.
        pool: takes all images as well.

    Attributes:
        by_level: whether what each level adds to a map is kept, too; false by default.
    """

    __test__ = False  # its name makes pytest curious

    def __init__(self, pictures: int, pool: Pool | None = None) -> None:
        self.pictures = pictures
        self.pool = pool
        self.by_level = False
        self.paths: list[str] = []
        self.labels: list[int] = []
        self.defects: list[str] = []
        self.scores: list[float] = []
        self.videos: list[str] = []
        self.frames: list[int] = []
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, bool]] = {}
        self._levels: dict[int, dict[str, torch.Tensor]] = {}
        self._pixels: list[torch.Tensor] = []
        self._peaks: list[torch.Tensor] = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        first, maps = len(self.paths), outputs["maps"].cpu()
        self.paths += batch["path"]
        self.defects += batch["defect"]
        self.labels += batch["label"].tolist()
        self.scores += outputs["scores"].tolist()
        if "video" in batch:
            self.videos += batch["video"]
            self.frames += batch["frame"].tolist()
        if self.pool:
            self.pool.image_metrics.update(outputs["scores"].cpu(), batch["label"].cpu())
            self.pool.pixel_metrics.update(maps, batch["mask"].cpu())
        if self.pictures:
            self._pixels.append(maps[:, ::16, ::16].flatten())
            self._peaks.append(maps.amax(dim=(1, 2)))
            windows = batch.get("window", [None] * len(maps))
            known = batch.get("mask_known", batch["label"] >= 0).tolist()
            for i, kept in enumerate(zip(maps, batch["mask"], windows, known, strict=True), first):
                self._kept[i] = kept
            self._prune()
            if self.by_level:
                assert isinstance(pl_module, LitPaDiM)
                self._keep_levels(pl_module.model, batch, first)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:
            return
        trainer.strategy.barrier()
        entries = {name: getattr(self, name) for name in (*LISTS, *BY_IMAGE)}
        # Cloned, as otherwise what is kept of a batch would travel with all of the batch.
        copied = apply_to_collection(entries, torch.Tensor, lambda part: part.cpu().clone())
        for part in gather_to_first(copied)[1:]:
            first = len(self.paths)
            for name in LISTS:
                getattr(self, name).extend(part[name])
            for name in BY_IMAGE:
                getattr(self, name).update({first + i: kept for i, kept in part[name].items()})
        self._prune()

    @property
    def scale(self) -> Scale:
        """One scale of colours for all images."""
        return Scale.of_sample(torch.cat(self._pixels).numpy(), torch.cat(self._peaks).numpy())

    @property
    def top(self) -> float:
        """The highest score of any map."""
        return float(torch.cat(self._peaks).max())

    @property
    def kept(self) -> Collection[int]:
        """The images whose maps are kept."""
        return self._kept.keys()

    def map_and_mask(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A kept image's map and, if known, ground truth, at the resolution measured: (H, W)."""
        anomaly_map, mask, _, known = self._kept[i]
        return self._placed(i, anomaly_map), mask.cpu().numpy() if known else None

    def levels(self, i: int) -> dict[str, np.ndarray]:
        """What each level adds to a kept image's map, (H, W) each; nothing if that is not kept."""
        return {name: self._placed(i, part) for name, part in self._levels.get(i, {}).items()}

    def _placed(self, i: int, anomaly_map: torch.Tensor) -> np.ndarray:
        """A map (h, w) of a kept image at the resolution measured, (H, W)."""
        _, mask, window, _ = self._kept[i]
        if window is not None:
            size = (mask.shape[0], mask.shape[1])
            anomaly_map = place_in_original(anomaly_map, window.cpu(), size)
        return anomaly_map.numpy()

    def _prune(self) -> None:
        scores, labels = np.array(self.scores), np.array(self.labels)
        keep: set[int] = set()
        for label in (0, 1):
            members = np.flatnonzero(labels == label)
            ranked = members[np.argsort(scores[members])]
            keep.update(ranked[: self.pictures].tolist(), ranked[-self.pictures :].tolist())
        self._kept = {i: kept for i, kept in self._kept.items() if i in keep}

    def _keep_levels(self, model: PaDiM, batch: Any, first: int) -> None:
        """Of the images of a batch that are kept so far, which are looked at a second time."""
        self._levels = {i: maps for i, maps in self._levels.items() if i in self._kept}
        kept = [i for i in self._kept if i >= first]
        if not kept:
            return
        chosen = torch.tensor(kept) - first
        if "embedding" in batch:
            embedding = [x[..., chosen] for x in batch["embedding"]]
        else:
            embedding = model.embed(model.backbone(batch["image"][chosen]))
        maps = level_maps(model, embedding)
        for i, *parts in zip(kept, *(m.cpu() for m in maps.values()), strict=True):
            self._levels[i] = dict(zip(maps, parts, strict=True))
