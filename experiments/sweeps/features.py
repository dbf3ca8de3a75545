"""The features of the test images: kept once, scored by every job that shares the pass."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules import LabelledImages
from padim import LitPaDiM, ModelSlice, PaDiM


class PassFeatures(LitPaDiM):
    """Accumulates statistics, and keeps the features of the test images instead of scoring them.

    Args:
        model: of all channels that any job uses.
        folder: for the features, which lie on disk and only look like memory.
    """

    def __init__(self, model: PaDiM, folder: Path) -> None:
        super().__init__(model)
        self.folder = folder
        self.batches: list[dict[str, Any]] = []

    def on_train_end(self) -> None:
        """The covariances are each job's own."""

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # type: ignore[override]
        embedding = self.model.embed(self.model.backbone(batch["image"]))
        known = {key: value for key, value in batch.items() if key != "image"}
        kept = [self._kept(x.cpu(), f"{batch_idx}_{level}") for level, x in enumerate(embedding)]
        self.batches.append({**known, "embedding": kept})

    def _kept(self, features: torch.Tensor, name: str) -> torch.Tensor:
        if not features.numel():
            return features
        np.save(self.folder / f"{name}.npy", features.numpy())
        return torch.from_numpy(np.load(self.folder / f"{name}.npy", mmap_mode="c"))

    def on_test_epoch_end(self) -> None:
        """There is nothing to measure."""


class FeatureSlices(LightningDataModule):
    """The test images of a job whose features are part of a wider model's.

    Args:
        data: gives the pictures.
        batches: of the wider model.
        part: the job's.
    """

    def __init__(
        self, data: LabelledImages, batches: Sequence[dict[str, Any]], part: ModelSlice
    ) -> None:
        super().__init__()
        self.name = data.name
        self.has_test = data.has_test
        self.picture = data.picture
        self._slices = _Slices(batches, part)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """One batch after the other, with `embedding` in place of `image`."""
        return DataLoader(self._slices, batch_size=None)


class _Slices(Dataset[dict[str, Any]]):
    def __init__(self, batches: Sequence[dict[str, Any]], part: ModelSlice) -> None:
        self.batches = batches
        self.part = part

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.batches[index]
        return {**batch, "embedding": self.part.embedding(batch["embedding"])}
