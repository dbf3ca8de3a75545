"""Test images with their masks."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.decoding import own_limit, read_mask, read_oriented, read_size
from datamodules.errors import DataError, DatasetError
from datamodules.loading import ImageDataset
from datamodules.notices import hold_notices, notices

GOOD = "good"
"""The `defect` of a normal image, whatever a data set calls it."""

SHOWN = 5
"""Faulty files that an error names."""


@dataclass(frozen=True)
class Sample:
    """A test image; a normal one has `defect` "good" and no mask.

    Another has one or several masks, or none where it is not known which pixels are anomalous.
    """

    path: Path
    defect: str
    masks: tuple[Path, ...]

    @property
    def label(self) -> int:
        """1 anomalous, 0 normal."""
        return int(self.defect != GOOD)


class LabelledDataset(ImageDataset):
    """Items of a test set, each of a `Sample`."""

    @cached_property
    def masked(self) -> bool:
        """Whether any image has a mask."""
        return any(sample.masks for sample in self.paths)

    def depends_on(self, sample: Sample) -> tuple[Sequence[Path], object]:
        """The image and its masks, and whether any image has one."""
        return [sample.path, *sample.masks], (sample.defect, self.masked)

    def item(self, sample: Sample) -> dict[str, Any]:
        """The item of a sample; its mask is the union of all that it has."""
        image, mask = read_sample(sample, self.preprocessing.bits)
        if sample.masks and sample.label and (mask.all() or not mask.any()):
            marked = "all pixels" if mask.all() else "no pixel"
            notices.warning(f"{sample.masks[0]}: {marked} marked as anomalous of {sample.path}")
        return {
            **self.preprocessing.pair(image, mask, sample.path),
            "label": sample.label,
            "defect": sample.defect,
            "path": str(sample.path),
            "mask_known": self.masked and bool(sample.masks or not sample.label),
        }


def read_sample(sample: Sample, bits: int | None = None) -> tuple[Tensor, Tensor]:
    """Image, uint8 (3, H, W), and the union of the masks, bool (H, W); raises `DataError`."""
    image, orientation = read_oriented(sample.path, bits)
    mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
    for path in sample.masks:
        part = read_mask(path, orientation, mask.shape)
        require_mask_of(image, part, sample.path, path)
        mask |= part
    return image, mask


def require_sound(samples: Sequence[Sample]) -> None:
    """Read the headers of all images and masks; raise a `DatasetError` of the first faults."""
    with hold_notices(), own_limit(), ThreadPoolExecutor() as pool:  # it waits for the disk
        faults = [fault for fault in pool.map(_fault, samples) if fault]
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] * (len(faults) > SHOWN)
        raise DatasetError("\n".join([*faults[:SHOWN], *more]))


def require_mask_of(image: Tensor, mask: Tensor, path: str | Path, source: Path) -> None:
    """Raise a `DatasetError` unless an image and its mask are of one size; names both files."""
    if mask.shape != image.shape[-2:]:
        shape, size = (" x ".join(map(str, sides)) for sides in (mask.shape, image.shape[-2:]))
        raise DatasetError(f"{source}: the mask is {shape} px, its image {path} is {size} px")


def _fault(sample: Sample) -> str | None:
    """What is wrong with a test image or its masks, if the headers say that anything may be."""
    try:
        if len({read_size(path) for path in (sample.path, *sample.masks)}) > 1:
            read_sample(sample)  # one may be turned
    except DataError as error:
        return str(error)
    return None
