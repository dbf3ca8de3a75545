"""The features of the images: kept once, used by every job that shares the pass."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules import LabelledImages
from padim import LitPaDiM, ModelSlice, PaDiM, channels_by_layer, union_of_channels
from padim.backbone import Layer
from padim.sample import EmbeddingSample, fingerprints, joined_fingerprints


@dataclass(frozen=True)
class Need:
    """The part of a pass that a job's model, or those of all jobs, use.

    Args:
        channels: by the name of the layer, sorted.
        sample: images whose embedding is kept for the threshold or shrinkage.
        shots: whether the embeddings of all images are needed, as of models of a few of them.
    """

    channels: Mapping[str, Tensor]
    sample: int
    shots: bool

    @classmethod
    def of_all(cls, needs: Collection["Need"], layers: Sequence[Layer]) -> "Need":
        """The union of some needs, on the layers of a backbone."""
        channels = union_of_channels([need.channels for need in needs], layers)
        return cls(
            dict(zip([layer.name for layer in layers], channels, strict=True)),
            max(need.sample for need in needs),
            any(need.shots for need in needs),
        )

    def is_met(self, state: Mapping[str, Any]) -> bool:
        """Whether a `PassFeatures.state` has it."""
        known = state["channels"]
        return (
            all(
                set(some.tolist()) <= set(known.get(name, []))
                for name, some in self.channels.items()
            )
            and state["sample"]["size"] >= self.sample
            and (bool(state["train"]) or not self.shots)
        )


class PassFeatures(LitPaDiM):
    """Accumulates statistics, and keeps the features of the test images instead of scoring them.

    Args:
        model: of all channels that any job uses.
        folder: for the features, which lie on disk and only look like memory.
        shots: whether the features of the training images are kept as well, for models of a few.

    Attributes:
        test: batches of the test images, with `embedding` in place of `image`.
        train_images: those of the training images: `path`, `embedding`, `key` and
            `fingerprint`.
    """

    def __init__(self, model: PaDiM, folder: Path, shots: bool = False) -> None:
        super().__init__(model)
        self.folder = folder
        self.test: list[dict[str, Any]] = []
        self.train_images: list[dict[str, Any]] = []
        if shots:
            model.sample = _KeepingSample(model.sample.size if model.sample else 0, self._keep)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        if isinstance(self.model.sample, _KeepingSample):
            own = {"path": batch["path"], "fingerprint": fingerprints(batch["image"])}
            self.train_images[-1].update(own)

    def on_train_end(self) -> None:
        """The covariances are each job's own."""

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # type: ignore[override]
        embedding = self.model.embed(self.model.backbone(batch["image"]))
        known = {key: value for key, value in batch.items() if key != "image"}
        self.test.append({**known, "embedding": self._on_disk(embedding, f"test_{batch_idx}")})

    def on_test_epoch_end(self) -> None:
        """There is nothing to measure."""

    @property
    def state(self) -> dict[str, Any]:
        """All that is known of the images, as plain values and tensors."""
        sample = self.model.sample or EmbeddingSample(0)
        return {
            "channels": {k: v.tolist() for k, v in channels_by_layer(self.model).items()},
            "statistics": self.model.statistics.state_dict(),
            "sample": {
                "size": sample.size,
                "embedding": sample.embedding,
                "keys": sample.keys,
                "seen": sample.seen,
            },
            "fingerprints": self.fingerprints,
            "train": self.train_images,
            "test": self.test,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Know what a module of the same channels knew."""
        self.model.statistics.load_state_dict(state["statistics"])
        known = dict(state["sample"])
        self.model.sample = EmbeddingSample(known.pop("size"))
        self.model.sample.replace(**known)
        self.fingerprints = state["fingerprints"]
        self.train_images, self.test = state["train"], state["test"]

    def fit_part(self, part: ModelSlice, paths: Collection[str]) -> Tensor:
        """Fit a job's model on the images of some paths, or on all; their fingerprints."""
        if len(paths) == self.model.statistics.count:
            part.fit()
            return self.fingerprints
        seen = [self.fingerprints[:0]]
        for batch in self.train_images:
            chosen = torch.tensor([path in paths for path in batch["path"]])
            if chosen.any():
                some = [x[..., chosen] for x in batch["embedding"]]
                part.part.add(part.embedding(some), batch["key"][chosen])
                seen.append(batch["fingerprint"][chosen])
        part.part.finalize()
        return joined_fingerprints(*seen)

    def _keep(self, embedding: list[Tensor], keys: Tensor) -> None:
        kept = self._on_disk(embedding, f"train_{len(self.train_images)}")
        self.train_images.append({"embedding": kept, "key": keys})

    def _on_disk(self, embedding: Sequence[Tensor], name: str) -> list[Tensor]:
        return [
            self._mapped(x.cpu(), self.folder / f"{name}_{level}.npy") if x.numel() else x
            for level, x in enumerate(embedding)
        ]

    @staticmethod
    def _mapped(features: Tensor, path: Path) -> Tensor:
        np.save(path, features.numpy())
        return torch.from_numpy(np.load(path, mmap_mode="c"))


class _KeepingSample(EmbeddingSample):
    """Hands on all that it is offered."""

    def __init__(self, size: int, keep: Callable[[list[Tensor], Tensor], None]) -> None:
        super().__init__(size)
        self.keep = keep

    def update(self, embedding: list[Tensor], keys: Tensor | None = None) -> None:
        assert keys is not None
        super().update(embedding, keys)
        self.keep(embedding, keys)


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
