"""Plain image files, without labels."""

import glob
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from datamodules.errors import DatasetError
from datamodules.images import IMAGE_SUFFIXES, Size, find_images, is_image
from datamodules.loading import ImageDataModule, ImageDataset

Inputs = str | Path | Sequence[str | Path]
"""Image files, folders of images, or glob patterns."""


def find_inputs(inputs: Inputs) -> list[Path]:
    """Expand files, folders (with all below) and globs (`**` too) to image files.

    The inputs keep their order, the files of a folder or a glob are sorted, and a file found twice
    counts once. A file given by its own name is taken whatever its suffix.

    Raises:
        DatasetError: an input gives no image, or there is no input.
    """
    items = [inputs] if isinstance(inputs, str | Path) else inputs
    if not items:
        raise DatasetError("no input: give image files, folders or quoted patterns")
    return list(dict.fromkeys(path for item in items for path in _expand(Path(item).expanduser())))


class ImageFiles(ImageDataModule):
    """Images to predict on: batches {"image": uint8 (B, 3, H, W), "path": list[str]}.

    Args:
        images: see `find_inputs`.
        resize, crop, batch_size, num_workers: see `ImageDataModule`.
    """

    def __init__(
        self,
        images: Inputs,
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(resize, crop, batch_size, num_workers)
        self.images = images

    def setup(self, stage: str | None = None) -> None:
        """Find the files.

        Raises:
            DatasetError: see `find_inputs`.
        """
        _ = self.paths  # found on first access

    @cached_property
    def paths(self) -> list[Path]:
        """The image files, in the order they are predicted."""
        return find_inputs(self.images)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The images, once, in the order of `paths`."""
        return self._loader(ImageDataset(self.paths, self.preprocessing))


def _expand(item: Path) -> list[Path]:
    if item.is_file():
        return [item]
    # A folder is tried by its name first, as a name may hold the characters of a pattern.
    matches = [item] if item.is_dir() else map(Path, glob.glob(str(item), recursive=True))
    found: set[Path] = set()
    for match in matches:
        found.update(find_images(match, recursive=True) if match.is_dir() else {match})
    images = sorted(filter(is_image, found))
    if not images:
        raise DatasetError(
            f"{item}: no images found; expected an image file, a folder of images"
            f" or a quoted pattern ({', '.join(IMAGE_SUFFIXES)})"
        )
    return images
