"""Plain image and video files, without labels."""

import glob
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.clips import Clip, ClipDataset
from datamodules.errors import DatasetError
from datamodules.images import IMAGE_SUFFIXES, Size, is_image
from datamodules.loading import ImageDataModule, ImageDataset
from datamodules.video import VIDEO_SUFFIXES, is_video

Inputs = str | Path | Sequence[str | Path]
"""Files, folders of files, or glob patterns."""


def find_inputs(inputs: Inputs, videos: bool = False) -> list[Path]:
    """Expand files, folders (with all below) and globs (`**` too) to image files.

    The inputs keep their order, the files of a folder or a glob are sorted, and a file found twice
    counts once. A file given by its own name is taken whatever its suffix.

    Args:
        inputs: what to expand.
        videos: whether video files are found as well.

    Raises:
        DatasetError: an input gives no file, or there is no input.
    """
    items = [inputs] if isinstance(inputs, str | Path) else inputs
    if not items:
        raise DatasetError("no input: give files, folders or quoted patterns")
    paths = (path for item in items for path in _expand(Path(item).expanduser(), videos))
    return list(dict.fromkeys(paths))


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


class VideoFrames(ImageDataModule):
    """Frames of a video to predict on, as a stream: batches as those of `ImageFiles`.

    A frame's path is "<video>#<number>". Where the video turns out damaged, the batches end with
    the last frame before, and a warning says why.

    Args:
        path: of the video file.
        stride: keeps every n-th frame.
        resize, crop, batch_size, num_workers: see `ImageDataModule`; one worker at most, as a
            video is decoded in a row.

    Raises:
        ValueError: `stride` is not positive.
    """

    def __init__(
        self,
        path: Path,
        stride: int = 1,
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(resize, crop, batch_size, num_workers)
        if not isinstance(stride, int) or stride < 1:
            raise ValueError(f"stride must be a positive integer, got {stride!r}")
        self.path = path
        self.stride = stride

    def setup(self, stage: str | None = None) -> None:
        """Count the frames.

        Raises:
            DataError: the file is no video, or has no frame.
        """
        _ = self.clip  # opened on first access

    @cached_property
    def clip(self) -> Clip:
        """The video with the frames to predict."""
        return Clip.open(self.path, self.stride)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The frames, once, in order."""
        return DataLoader(
            # "raise" would drop what the last batch has of frames before a damaged one.
            ClipDataset([self.clip], self.preprocessing, self.batch_size, on_error="skip"),
            batch_size=None,  # the data set makes the batches
            num_workers=min(self.num_workers, 1),
            pin_memory=torch.cuda.is_available(),
        )


def _expand(item: Path, videos: bool) -> list[Path]:
    if item.is_file():
        return [item]
    # A folder is tried by its name first, as a name may hold the characters of a pattern.
    matches = [item] if item.is_dir() else map(Path, glob.glob(str(item), recursive=True))
    found: set[Path] = set()
    for match in matches:
        found.update(match.glob("**/*") if match.is_dir() else {match})
    files = sorted(path for path in found if is_image(path) or (videos and is_video(path)))
    if not files:
        kinds = "images or videos" if videos else "images"
        suffixes = IMAGE_SUFFIXES + (VIDEO_SUFFIXES if videos else ())
        raise DatasetError(
            f"{item}: no {kinds} found; expected a file, a folder of {kinds}"
            f" or a quoted pattern ({', '.join(suffixes)})"
        )
    return files
