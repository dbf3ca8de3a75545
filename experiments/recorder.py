"""What is kept of the test images."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from experiments.pictures import Scale
from padim import ImageMetrics, PixelMetrics, place_in_original


class Pool:
    """The test images of several runs, measured at once and in constant memory."""

    def __init__(self) -> None:
        self.image_metrics = ImageMetrics()
        self.pixel_metrics = PixelMetrics(binned=True)

    def compute(self) -> dict[str, float]:
        """The metrics by name, as of a single run."""
        groups = {"image": self.image_metrics, "pixel": self.pixel_metrics}
        return {
            f"{group}/{name}": float(value)
            for group, metrics in groups.items()
            for name, value in metrics.compute().items()
        }


class TestRecorder(Callback):
    """Keeps what the test epoch saw: one entry an image, in the data's order.

    Of maps and masks only those are kept that can become pictures, whatever the number of images.

    Args:
        pictures: as many of the highest and of the lowest scores keep their maps, of the normal and
            of the anomalous images each.
        pool: takes all images as well.
    """

    __test__ = False  # its name makes pytest curious

    def __init__(self, pictures: int, pool: Pool | None = None) -> None:
        self.pictures = pictures
        self.pool = pool
        self.paths: list[str] = []
        self.labels: list[int] = []
        self.defects: list[str] = []
        self.scores: list[float] = []
        self.videos: list[str] = []
        self.frames: list[int] = []
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]] = {}
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
            for i, kept in enumerate(zip(maps, batch["mask"], windows, strict=True), start=first):
                self._kept[i] = kept
            self._prune()

    @property
    def scale(self) -> Scale:
        """One scale of colours for all images."""
        return Scale.of_sample(torch.cat(self._pixels).numpy(), torch.cat(self._peaks).numpy())

    def map_and_mask(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """A kept image's map and ground truth at the resolution measured, (H, W) each."""
        anomaly_map, mask, window = self._kept[i]
        if window is not None:
            size = (mask.shape[0], mask.shape[1])
            anomaly_map = place_in_original(anomaly_map, window.cpu(), size)
        return anomaly_map.numpy(), mask.cpu().numpy()

    def _prune(self) -> None:
        scores, labels = np.array(self.scores), np.array(self.labels)
        keep: set[int] = set()
        for label in (0, 1):
            members = np.flatnonzero(labels == label)
            ranked = members[np.argsort(scores[members])]
            keep.update(ranked[: self.pictures].tolist(), ranked[-self.pictures :].tolist())
        self._kept = {i: kept for i, kept in self._kept.items() if i in keep}
