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
from datamodules.errors import DataError, DatasetError, ImageError
from datamodules.loading import ImageDataset
from datamodules.notices import hold_notices, notices
from datamodules.preprocessing import Preprocessing

GOOD = "good"
"""The `defect` of a normal image, whatever a data set calls it."""

SHOWN = 5
"""Faulty files that an error names."""


@dataclass(frozen=True)
class Sample:
    """A test image; a normal one has `defect` "good" and no mask.

    Another has one or several masks, or none where it is not known which pixels are anomalous.
    `ignored` are masks of what is not looked at.
    """

    path: Path
    defect: str
    masks: tuple[Path, ...]
    ignored: tuple[Path, ...] = ()

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
        return [sample.path, *sample.masks, *sample.ignored], (sample.defect, self.masked)

    def item(self, sample: Sample) -> dict[str, Any]:
        """The item of a sample; its mask is the union of all that it has."""
        image, orientation = read_oriented(sample.path, self.preprocessing.bits)
        mask = read_masks(image, orientation, sample.path, sample.masks)
        if sample.masks and sample.label and (mask.all() or not mask.any()):
            marked = "all pixels" if mask.all() else "no pixel"
            notices.warning(f"{sample.masks[0]}: {marked} marked as anomalous of {sample.path}")
        return {
            **self.preprocessing.pair(image, mask, sample.path),
            **own_ignored(self.preprocessing, image, orientation, sample.path, sample.ignored),
            "label": sample.label,
            "defect": sample.defect,
            "path": str(sample.path),
            "mask_known": self.masked and bool(sample.masks or not sample.label),
        }


def read_masks(image: Tensor, orientation: int | None, path: Path, masks: Sequence[Path]) -> Tensor:
    """The union of masks of an image, as `read_oriented` gives it, bool (H, W).

    Raises `DataError`.
    """
    union = torch.zeros(image.shape[-2:], dtype=torch.bool)
    for source in masks:
        mask = read_mask(source, orientation, union.shape)
        require_mask_of(image, mask, path, source)
        union |= mask
    return union


def own_ignored(
    preprocessing: Preprocessing,
    image: Tensor,
    orientation: int | None,
    path: Path,
    masks: Sequence[Path],
) -> dict[str, Tensor]:
    """{"ignored": bool (h, w)} of an image, prepared; nothing where no image has masks of its own.

    Arguments as of `read_masks`; raises `DataError`, also where no pixel is left.
    """
    if preprocessing.ignore_folder is None:
        return {}
    whole = read_masks(image, orientation, path, masks)
    prepared = preprocessing.mask(whole, path)
    if whole.all() or prepared.all():
        raise ImageError(f"{masks[0]}: marks all of {path} that the model sees: leave some of it")
    return {"ignored": prepared}


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
    """A fault of a test image or its masks, if the headers say that anything may be."""
    try:
        masks = *sample.masks, *sample.ignored
        if len({read_size(path) for path in (sample.path, *masks)}) > 1:
            read_masks(*read_oriented(sample.path), sample.path, masks)  # one may be turned
    except DataError as error:
        return str(error)
    return None
