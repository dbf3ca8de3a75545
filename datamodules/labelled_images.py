"""Image files to fit on, and labelled ones with masks to test on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from datamodules.errors import DatasetError
from datamodules.images import Preprocessing, ResizeMode, Size, read_image, read_mask
from datamodules.labelled import GOOD, LabelledData
from datamodules.loading import ImageDataset

RESOLUTIONS = ("crop", "original")


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


class LabelledImages(LabelledData):
    """Base of the data sets of image files.

    Test batches, beside what `LabelledData` says, hold "mask_known", bool (B,), false for an
    anomalous image without mask, and for all where there is no mask at all. At the original
    resolution "mask" is a list of B masks, bool (H_i, W_i), and "window", float (B, 4), is what
    each image shows of its original (see `Preprocessing.window`). So it is for letterboxes, whose
    masks are cut to what is no padding.

    Args:
        resize, crop, batch_size, num_workers, resize_mode, roi: see `ImageDataModule`.
        resolution: of the masks: "crop", prepared as their images (paper), or "original", as they
            are on disk.

    Raises:
        ValueError: the resolution is neither.
    """

    def __init__(
        self,
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
        resolution: str = "crop",
        resize_mode: ResizeMode = "stretch",
        roi: Sequence[int] | None = None,
    ) -> None:
        super().__init__(resize, crop, batch_size, num_workers, resize_mode, roi)
        if resolution not in RESOLUTIONS:
            raise ValueError(
                f"data.resolution must be one of {', '.join(RESOLUTIONS)}, got {resolution!r}"
            )
        self.resolution = resolution

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
            DatasetError: a folder or a file is missing.
        """
        _ = self.train_paths, self.test_samples  # listed on first access

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The training images, once, in the order of `train_paths`, without those counted."""
        paths = [path for path in self.train_paths if str(path) not in self.counted]
        return self._loader(ImageDataset(paths, self.preprocessing))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The test images, once, in the order of `test_samples`."""
        dataset = LabelledDataset(
            self.test_samples, self.preprocessing, self.resolution == "original"
        )
        return self._loader(dataset, _collate_windows if dataset.windows else None)

    def picture(self, path: str) -> Tensor:
        """A test image by its path, of its mask's size: uint8 (3, H, W)."""
        image = read_image(path)
        if self.resolution == "original":
            return image
        rows, columns = self.preprocessing.unpadded(image.shape[-2], image.shape[-1])
        return self.preprocessing.image(image, path)[:, rows, columns]


class LabelledDataset(Dataset[dict[str, Any]]):
    """Items of a test set, of which `LabelledImages` describes the batches.

    Attributes:
        windows: whether items have a window, so that masks differ in size.
    """

    def __init__(
        self, samples: Sequence[Sample], preprocessing: Preprocessing, original: bool = False
    ) -> None:
        self.samples = samples
        self.preprocessing = preprocessing
        self.original = original
        self.windows = original or preprocessing.resize_mode == "letterbox"
        self._masked = any(sample.masks for sample in samples)

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
            "mask_known": self._masked and bool(sample.masks or not sample.label),
        }
        if self.original:
            return {**item, "mask": mask, "window": self.preprocessing.window(height, width)}
        mask = self.preprocessing.mask(mask, sample.path)
        if not self.windows:
            return {**item, "mask": mask}
        rows, columns = self.preprocessing.unpadded(height, width)
        corners = [-rows.start, -columns.start]
        corners += [mask.shape[0] - rows.start, mask.shape[1] - columns.start]
        return {**item, "mask": mask[rows, columns], "window": torch.tensor(corners).float()}


def _collate_windows(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch whose masks, of any size, stay a list."""
    masks = [item.pop("mask") for item in items]
    return {**default_collate(items), "mask": masks}
