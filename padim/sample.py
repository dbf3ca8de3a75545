"""A sample of the embeddings of the training images, whatever their order."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

MOST = 4096
"""Fingerprints kept of the images that a model has seen, however many these are."""


def image_keys(names: Iterable[object]) -> Tensor:
    """Pseudo-random keys (B,), int64, of images by their names: the same in every process."""
    return _keys(str(name).encode(errors="surrogateescape") for name in names)


def fingerprints(images: Tensor) -> Tensor:
    """Keys (B,), int64, of images (B, 3, H, W) by their pixels, whatever they are called."""
    return _keys(image.numpy().tobytes() for image in images.cpu())


def joined_fingerprints(*parts: Tensor) -> Tensor:
    """The smallest of all fingerprints, sorted: of an image in two sets either both have it."""
    smallest: Tensor = torch.cat(parts).unique()[:MOST]
    return smallest


def _keys(contents: Iterable[bytes]) -> Tensor:
    digests = (hashlib.blake2b(content).digest()[:8] for content in contents)
    keys = [int.from_bytes(digest, "big", signed=True) for digest in digests]
    return torch.tensor(keys, dtype=torch.int64)


class EmbeddingSample:
    """A bounded sample of the embeddings seen: those of the images with the smallest keys.

    With pseudo-random keys each image is as likely to be kept. What is kept depends neither on the
    order of the images nor on how they are batched or shared out among processes, and a smaller
    sample is the beginning of a larger one.

    Args:
        size: number of images kept.

    Attributes:
        seen: number of images offered.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0
        self._keys = torch.empty(0, dtype=torch.int64)
        self._batches: list[list[Tensor]] = []
        self._owned = False  # whether it may be written to: batches are others' as well

    @property
    def keys(self) -> Tensor:
        """Keys (number of images,) of what is kept, ascending."""
        return self._keys.sort().values

    @property
    def embedding(self) -> list[Tensor]:
        """The embeddings kept, in the order of the keys.

        One (G_l, d_l, number of images) tensor a level. Empty if nothing is kept.
        """
        if not self._batches:
            return []
        order = self._keys.argsort(stable=True)
        self._keys = self._keys[order]
        if len(self._batches) > 1 or not torch.equal(order, torch.arange(len(order))):
            self._batches = [[x[..., order].contiguous() for x in self._joined()]]
            self._owned = True
        return self._batches[0]

    def update(self, embedding: list[Tensor], keys: Tensor | None = None) -> None:
        """Offer a batch.

        Args:
            embedding: one (G_l, d_l, B) tensor a level.
            keys: (B,), on the CPU; by default those of the running numbers of the images.
        """
        batch = embedding[0].shape[-1]
        if keys is None:
            keys = image_keys(range(self.seen, self.seen + batch))
        self.seen += batch
        room = min(batch, self.size - len(self._keys))
        if room:  # batches are joined when they are asked for, not at every update
            self._batches.append([x[..., :room] for x in embedding])
            self._keys = torch.cat([self._keys, keys[:room]])
            self._owned = False
        held = len(self._keys)
        offered = torch.cat([self._keys, keys[room:]])
        smallest = torch.zeros(len(offered), dtype=torch.bool)
        smallest[offered.argsort(stable=True)[: self.size]] = True
        slots = (~smallest[:held]).nonzero()[:, 0]
        images = smallest[held:].nonzero()[:, 0] + room
        if not len(images):
            return
        if not self._owned:
            self._batches, self._owned = [self._joined()], True
        self._keys[slots] = keys[images]
        for kept, x in zip(self._batches[0], embedding, strict=True):
            kept[..., slots] = x[..., images]

    def merge(self, other: "EmbeddingSample") -> None:
        """Add what another one saw; the result is as if one had seen all."""
        seen = self.seen + other.seen
        if other.embedding:
            self.update(other.embedding, other.keys)
        self.seen = seen

    def replace(self, embedding: list[Tensor], keys: Tensor, seen: int) -> None:
        """Keep this instead.

        Args:
            embedding: one (G_l, d_l, number of images) tensor a level; not written to.
            keys: (number of images,).
            seen: number of images they were sampled from.
        """
        self._batches, self._owned = [embedding] if embedding else [], False
        self._keys, self.seen = keys.clone(), seen

    def _joined(self) -> list[Tensor]:
        return [torch.cat(level, dim=-1) for level in zip(*self._batches, strict=True)]
