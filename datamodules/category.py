"""One category of a data set of image files; what the inspection benchmarks share."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from datamodules.errors import DatasetError
from datamodules.images import Preprocessing, Size, read_image, read_mask
from datamodules.labelled import GOOD, LabelledData
from datamodules.loading import ImageDataset
from datamodules.pose import RandomPose

RESOLUTIONS = ("crop", "original")


@dataclass(frozen=True)
class Sample:
    """A test image; a normal one has `defect` "good" and no mask, another has one or several."""

    path: Path
    defect: str
    masks: tuple[Path, ...]

    @property
    def label(self) -> int:
        """1 anomalous, 0 normal."""
        return int(self.defect != GOOD)


class CategoryData(LabelledData):
    """Base of the data sets whose categories are folders of images.

    Batches are those of `LabelledData`. At the original resolution "mask" is a list of B masks,
    bool (H_i, W_i), and "window", float (B, 4), is what each image shows of its original (see
    `Preprocessing.window`).

    Args:
        root: the folder that holds the categories.
        category: the name of one; None if `root` itself is the category's folder.
        resize, crop, batch_size, num_workers: see `ImageDataModule`.
        pose: a random view of every image and mask instead of the centre; None for none.
        resolution: of the masks: "crop", prepared as their images (paper), or "original", as they
            are on disk.

    Raises:
        ValueError: the resolution is neither, or is "original" with a pose.
    """

    def __init__(
        self,
        root: str | Path,
        category: str | None = None,
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
        pose: RandomPose | None = None,
        resolution: str = "crop",
    ) -> None:
        super().__init__(resize, crop, batch_size, num_workers)
        if resolution not in RESOLUTIONS:
            raise ValueError(
                f"data.resolution must be one of {', '.join(RESOLUTIONS)}, got {resolution!r}"
            )
        if resolution == "original" and pose:
            raise ValueError("data.resolution=original cannot be used with data.pose: set it null")
        self.resolution = resolution
        self.root = Path(root)
        self.category = category
        self.folder = self.root if category is None else self.root / category
        self.name = self.folder.resolve().name
        # So an image is "bottle/train/good/000.png", whether or not root is the category's folder.
        parent = self.folder / os.pardir
        self.preprocessing = replace(self.preprocessing, pose=pose, root=parent)

    @cached_property
    def train_paths(self) -> list[Path]:
        """The normal images to fit on, sorted; never empty."""
        raise NotImplementedError

    @cached_property
    def test_samples(self) -> list[Sample]:
        """The test images, sorted by defect and file name."""
        raise NotImplementedError

    @property
    def has_test(self) -> bool:
        """Whether there is any test image."""
        return bool(self.test_samples)

    def setup(self, stage: str | None = None) -> None:
        """List and check all files now, so that a run does not fail when it is half done.

        Raises:
            DatasetError: a folder or a file is missing, or a defect image has no mask.
        """
        _ = self.train_paths, self.test_samples  # listed on first access

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The training images, once, in the order of `train_paths`."""
        return self._loader(ImageDataset(self.train_paths, self.preprocessing))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The test images, once, in the order of `test_samples`."""
        original = self.resolution == "original"
        return self._loader(
            LabelledDataset(self.test_samples, self.preprocessing, original),
            _collate_originals if original else None,
        )

    def picture(self, path: str) -> Tensor:
        """A test image by its path, at the resolution of the masks: uint8 (3, H, W)."""
        image = read_image(path)
        return image if self.resolution == "original" else self.preprocessing.image(image, path)

    def _no_category(self, problem: str) -> str:
        """An error's text for a `category` that is not there or not given."""
        present = self.present_categories(self.root)
        near = difflib.get_close_matches(self.category or "", present, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        found = f"it has {', '.join(present)}" if present else "it has none"
        return f"{self.root}: {problem}{hint}; {found}"


class LabelledDataset(Dataset[dict[str, Any]]):
    """Items of a test set: image, mask, label, defect, path and window, as `CategoryData` says."""

    def __init__(
        self, samples: Sequence[Sample], preprocessing: Preprocessing, original: bool = False
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.original = original

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        image = read_image(sample.path)
        height, width = image.shape[-2:]
        mask = torch.zeros(height, width, dtype=torch.bool)
        for path in sample.masks:
            part = read_mask(path)
            if part.shape != mask.shape:
                raise DatasetError(
                    f"{path}: the mask is {part.shape[0]} x {part.shape[1]} px,"
                    f" its image {sample.path} is {height} x {width} px"
                )
            mask |= part
        item = {
            "image": self.preprocessing.image(image, sample.path),
            "label": sample.label,
            "defect": sample.defect,
            "path": str(sample.path),
        }
        if self.original:
            return {**item, "mask": mask, "window": self.preprocessing.window(height, width)}
        return {**item, "mask": self.preprocessing.mask(mask, sample.path)}


def _collate_originals(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch whose masks, of any size, stay a list."""
    masks = [item.pop("mask") for item in items]
    return {**default_collate(items), "mask": masks}
