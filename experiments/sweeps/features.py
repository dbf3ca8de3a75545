"""The features of the test images: kept once, scored by every job that shares the pass."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from padim import LitPaDiM, ModelSlice, PaDiM


class PassFeatures(LitPaDiM):
    """Accumulates statistics, and keeps the features of the test images instead of scoring them.

    Args:
        model: of all channels that any job uses.
        spill: folder for the features; None to keep them in memory.
    """

    def __init__(self, model: PaDiM, spill: Path | None) -> None:
        super().__init__(model)
        self.spill = spill
        self.batches: list[dict[str, Any]] = []

    def on_train_end(self) -> None:
        """The covariances are each job's own."""

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # type: ignore[override]
        with self._clock("score"):  # a part of the time to score an image, of every job
            embedding = self.model.embed(self.model.backbone(batch["image"]))
        known = {key: value for key, value in batch.items() if key != "image"}
        kept = [self._kept(x.cpu(), f"{batch_idx}_{level}") for level, x in enumerate(embedding)]
        self.batches.append({**known, "embedding": kept})

    def _kept(self, features: torch.Tensor, name: str) -> torch.Tensor:
        """The features; where they spill they lie on disk and only look like memory."""
        if self.spill is None or not features.numel():
            return features
        path = self.spill / f"{name}.npy"
        np.save(path, features.numpy())
        return torch.from_numpy(np.load(path, mmap_mode="c"))

    def on_test_epoch_end(self) -> None:
        """There is nothing to measure."""


class FeatureSlices(Dataset[dict[str, Any]]):
    """The batches of a wider model as those of one that is part of it."""

    def __init__(self, batches: Sequence[dict[str, Any]], part: ModelSlice) -> None:
        self.batches = batches
        self.part = part

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def images(self) -> int:
        """Images in all batches."""
        return sum(len(batch["path"]) for batch in self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self.batches[index]
        return {**batch, "embedding": self.part.embedding(batch["embedding"])}
