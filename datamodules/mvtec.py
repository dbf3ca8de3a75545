"""MVTec AD, and any data set in its layout."""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.download import download_archive
from datamodules.errors import DatasetError
from datamodules.images import (
    IMAGE_SUFFIXES,
    Preprocessing,
    Size,
    find_images,
    read_image,
    read_mask,
)
from datamodules.loading import ImageDataModule, ImageDataset

CATEGORIES = {
    "textures": ("carpet", "grid", "leather", "tile", "wood"),
    "objects": (
        "bottle",
        "cable",
        "capsule",
        "hazelnut",
        "metal_nut",
        "pill",
        "screw",
        "toothbrush",
        "transistor",
        "zipper",
    ),
}

ARCHIVE_URL = (
    "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283"
    "/download/420938113-1629960298/mvtec_anomaly_detection.tar.xz"
)
ARCHIVE_SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"

GOOD = "good"
"""The folder of normal images, under train as under test."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A test image; `mask` is None for a normal one, whose `defect` is "good"."""

    path: Path
    defect: str
    mask: Path | None

    @property
    def label(self) -> int:
        """1 anomalous, 0 normal."""
        return int(self.defect != GOOD)


class MVTec(ImageDataModule):
    """One category folder in the layout of MVTec AD (Bergmann et al., CVPR 2019).

    ```
    <root>/<category>/train/good/*                              normal images
                      test/good/*, test/<defect>/*              optional
                      ground_truth/<defect>/<stem>_mask.png     one for each image of a defect
    ```

    Training batches are {"image": uint8 (B, 3, H, W), "path": list[str]}. Test batches also hold
    {"mask": bool (B, H, W), "label": int64 (B,), 1 anomalous, "defect": list[str]}.

    Args:
        root: the folder that holds the categories.
        category: the name of one; None if `root` itself is the category's folder.
        resize, crop, batch_size, num_workers: see `ImageDataModule`.
        download: fetch the archive into `root` if the category is not there.
        download_url: a .tar.xz or .tar.gz of category folders.
        download_sha256: its SHA-256, hexadecimal.
    """

    name: str

    def __init__(
        self,
        root: str | Path,
        category: str | None = None,
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
        download: bool = False,
        download_url: str = ARCHIVE_URL,
        download_sha256: str = ARCHIVE_SHA256,
    ) -> None:
        super().__init__(resize, crop, batch_size, num_workers)
        self.root = Path(root)
        self.category = category
        self.folder = self.root if category is None else self.root / category
        self.name = self.folder.resolve().name
        self.download = download
        self.download_url = download_url
        self.download_sha256 = download_sha256

    def prepare_data(self) -> None:
        """Download what is missing, if asked to.

        Raises:
            DatasetError: the archive cannot be fetched, is not the expected one, or is unsafe.
        """
        if self.download and not self.folder.is_dir():
            if self.download_url == ARCHIVE_URL:
                _require_known(self.category)
                _log.info(
                    "MVTec AD, (c) MVTec Software GmbH, is licensed under CC BY-NC-SA 4.0:"
                    " no commercial use. https://creativecommons.org/licenses/by-nc-sa/4.0/"
                )
            download_archive(self.download_url, self.download_sha256, self.root)

    def setup(self, stage: str | None = None) -> None:
        """List and check all files now, so that a run does not fail when it is half done.

        Raises:
            DatasetError: a folder is missing or empty, or a defect image has no mask.
        """
        _ = self.train_paths, self.test_samples  # listed on first access

    @cached_property
    def train_paths(self) -> list[Path]:
        """The normal images to fit on, sorted; never empty."""
        folder = self.folder / "train" / GOOD
        paths = find_images(folder)
        if not paths:
            raise DatasetError(self._diagnosis(folder))
        return paths

    @cached_property
    def test_samples(self) -> list[Sample]:
        """The test images, sorted by defect and file name."""
        folders = sorted(path for path in self.folder.glob("test/*") if path.is_dir())
        return [
            Sample(path, folder.name, self._mask_path(path, folder.name))
            for folder in folders
            for path in find_images(folder)
        ]

    @property
    def has_test(self) -> bool:
        """Whether there is any test image."""
        return bool(self.test_samples)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The training images, once, in the order of `train_paths`."""
        return self._loader(ImageDataset(self.train_paths, self.preprocessing))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The test images, once, in the order of `test_samples`."""
        return self._loader(LabelledDataset(self.test_samples, self.preprocessing))

    def _mask_path(self, image: Path, defect: str) -> Path | None:
        if defect == GOOD:
            return None
        mask = self.folder / "ground_truth" / defect / f"{image.stem}_mask.png"
        if not mask.is_file():
            raise DatasetError(f"{image}: a defect image needs its mask, expected at {mask}")
        return mask

    def _diagnosis(self, train_folder: Path) -> str:
        """Why there are no training images, and what to do about it."""
        if not self.root.is_dir():
            return f"{self.root}: no such folder; put the data there, or set download to true"
        if train_folder.is_dir():
            return f"{train_folder}: no images to train on ({', '.join(IMAGE_SUFFIXES)})"
        if self.category is not None and self.folder.is_dir():
            return f"{train_folder}: no such folder; normal training images are expected there"
        if self.category is not None and (self.root / "train" / GOOD).is_dir():
            return f"{self.root}: is itself a category's folder; set category to null"
        categories = sorted(path.parents[1].name for path in self.root.glob("*/train/good"))
        found = f"it has {', '.join(categories)}" if categories else "it has none"
        if self.category is None:
            return f"{self.root}: has no train/good, so name a category in it; {found}"
        near = difflib.get_close_matches(self.category, categories, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{self.root}: no category {self.category!r}{hint}; {found}"


class LabelledDataset(Dataset[dict[str, Any]]):
    """Items of a test set: image, mask, label, defect and path, as `MVTec` says."""

    def __init__(self, samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
        self.samples = samples
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        image = read_image(sample.path)
        height, width = image.shape[-2:]
        if sample.mask is None:
            mask = torch.zeros(height, width, dtype=torch.bool)
        else:
            mask = read_mask(sample.mask)
            if mask.shape != (height, width):
                raise DatasetError(
                    f"{sample.mask}: the mask is {mask.shape[0]} x {mask.shape[1]} px,"
                    f" its image {sample.path} is {height} x {width} px"
                )
        return {
            "image": self.preprocessing.image(image, sample.path),
            "mask": self.preprocessing.mask(mask, sample.mask or sample.path),
            "label": sample.label,
            "defect": sample.defect,
            "path": str(sample.path),
        }


def _require_known(category: str | None) -> None:
    """Keep a typing error from starting a download of 5 GB."""
    names = [name for names in CATEGORIES.values() for name in names]
    if category is not None and category not in names:
        raise DatasetError(f"MVTec AD has no category {category!r}; it has {', '.join(names)}")
