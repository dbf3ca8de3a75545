"""Plain image and video files, without labels."""

import glob
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from datamodules.clips import Clip, ClipDataset
from datamodules.errors import DataError, DatasetError, require_positive
from datamodules.images import IMAGE_SUFFIXES, Preprocessing, is_image, read_image
from datamodules.loading import ImageDataModule, ImageDataset, Loader, Loading, join_notices
from datamodules.video import VIDEO_SUFFIXES, is_video

Inputs = str | Path | Sequence[str | Path]
"""Files, folders of files, or glob patterns."""

SYSTEM_FILES = ("Thumbs.db", "desktop.ini")
"""What Windows puts into folders of pictures, unseen."""


def find_inputs(inputs: Inputs, videos: bool = False, may_be_empty: bool = False) -> list[Path]:
    """Expand files, folders (with all below) and globs (`**` too) to image files.

    The inputs keep their order, the files of a folder or a glob are sorted, and a file found twice
    counts once. A file given by its own name is taken whatever its suffix.

    Args:
        inputs: what to expand.
        videos: whether video files are found as well.
        may_be_empty: whether a folder or a glob may give no file.

    Raises:
        DatasetError: an input gives no file, or there is no input.
    """
    return list(find_with_folders(inputs, videos, may_be_empty))


def find_with_folders(
    inputs: Inputs, videos: bool = False, may_be_empty: bool = False
) -> dict[Path, Path]:
    """Files as of `find_inputs`, each with the folder that its input names, before any wildcard."""
    found: dict[Path, Path] = {}
    for item in _items(inputs):
        matches = [item] if item.is_file() else sorted(_matches(item))
        files = [p for p in matches if p == item or is_image(p) or (videos and is_video(p))]
        if not files and not (may_be_empty and (item.is_dir() or glob.has_magic(str(item)))):
            kinds = "images or videos" if videos else "images"
            suffixes = IMAGE_SUFFIXES + (VIDEO_SUFFIXES if videos else ())
            raise DatasetError(
                f"{item}: no {kinds} found; expected a file, a folder of {kinds}"
                f" or a quoted pattern ({', '.join(suffixes)})"
            )
        found |= dict.fromkeys(files, named_folder(item))
    return found


def named_folder(item: str | Path) -> Path:
    """The folder that an input of `find_inputs` names: the last one before any wildcard."""
    path = Path(item).expanduser()
    if path.is_file():
        return path.parent
    while glob.has_magic(str(path)) and not path.is_dir():
        path = path.parent
    return path


def find_others(inputs: Inputs) -> list[Path]:
    """The files that `find_inputs` passes over for their names: no images, no videos; sorted.

    Without hidden files, those in hidden folders, and what systems put into folders unseen.
    """
    others: set[Path] = set()
    for item in _items(inputs):
        files = set() if item.is_file() else set(filter(Path.is_file, _matches(item)))
        others |= {p for p in files if not (is_image(p) or is_video(p) or _is_unseen(p, item))}
    return sorted(others)


class ImageFiles(ImageDataModule):
    """Images to predict on, in batches of those that can be read.

    A batch is {"image": uint8 (B, 3, H, W), "path": list[str], "size": int (B, 2), "window": float
    (B, 4), "skipped": list[(str, str)]}: `size` is (H, W) of the original, `window` what the image
    shows of it (see `Preprocessing.window`), `skipped` the files that cannot be read, by path and
    reason. Where this is true of all, a batch has 0 images, and neither `size` nor `window`.

    Args:
        paths: of the files.
        preprocessing, loading: see `ImageDataModule`; nothing is cropped at random.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
    ) -> None:
        super().__init__(_centred(preprocessing), loading)
        self.paths = paths

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The images, once, in the order of `paths`."""
        files = _Files(self.paths, self.preprocessing)
        return self._loader(files, partial(_collate_read, self.image_size))


class VideoFrames(ImageDataModule):
    """Frames of a video to predict on, as a stream: batches as of `ImageFiles`, without `skipped`.

    A frame's path is "<video>#<number>". Where the video turns out damaged, the batches end with
    the last frame before, and a warning says why.

    Args:
        path: of the video file.
        stride: keeps every n-th frame.
        preprocessing, loading: as for `ImageFiles`; one worker at most, as a video is decoded in a
            row.

    Raises:
        ValueError: `stride` is not positive.
    """

    def __init__(
        self,
        path: Path,
        stride: int = 1,
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
    ) -> None:
        super().__init__(_centred(preprocessing), loading)
        require_positive("stride", stride)
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
        # "raise" would drop what the last batch has of frames before a damaged one.
        frames = _Frames([self.clip], self.preprocessing, self.loading.batch_size, on_error="skip")
        workers = min(self.loading.workers, 1)
        return Loader(frames, num_workers=workers, batch_size=None)  # it makes the batches


class _Files(ImageDataset):
    """Items as in a batch of `ImageFiles`; of a file that cannot be read, its path and "reason"."""

    def item(self, path: Path) -> dict[str, Any]:
        try:
            image = read_image(path, self.preprocessing.bits)
            prepared = self.preprocessing.image(image, path)
        except DataError as error:
            return {"path": str(path), "reason": str(error).removeprefix(f"{path}: ")}
        return {"image": prepared, "path": str(path), **_origin(image, self.preprocessing)}


class _Frames(ClipDataset):
    """Adds to a frame where it comes from, as `_Files` does."""

    def _sample(self, clip: Clip, number: int, image: Tensor, *args: Any) -> dict[str, Any]:
        sample = super()._sample(clip, number, image, *args)
        return {**sample, **_origin(image, self.preprocessing)}


def _centred(preprocessing: Preprocessing | None) -> Preprocessing | None:
    """Without random rotation and crop, which is not for what is predicted on."""
    return preprocessing and replace(preprocessing, rotation_crop=None)


def _origin(image: Tensor, preprocessing: Preprocessing) -> dict[str, Tensor]:
    size = (image.shape[-2], image.shape[-1])
    return {"size": torch.tensor(size), "window": preprocessing.window(*size)}


def _collate_read(image_size: tuple[int, int], items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of what could be read; a batch of 0 images of `image_size` where nothing could."""
    notices = join_notices(items)
    read = [item for item in items if "reason" not in item]
    skipped = [(item["path"], item["reason"]) for item in items if "reason" in item]
    none = {"image": torch.empty(0, 3, *image_size, dtype=torch.uint8), "path": []}
    batch = default_collate(read) if read else none
    return {**batch, "skipped": skipped, "notices": notices}


def _items(inputs: Inputs) -> list[Path]:
    items = [inputs] if isinstance(inputs, str | Path) else inputs
    if not items:
        raise DatasetError("no input: give files, folders or quoted patterns")
    return [Path(item).expanduser() for item in items]


def _matches(item: Path) -> set[Path]:
    """All there is in a folder, or that a glob gives, and in its folders."""
    # A folder is tried by its name first, as a name may hold the characters of a pattern.
    matches = [item] if item.is_dir() else map(Path, glob.glob(str(item), recursive=True))
    found: set[Path] = set()
    for match in matches:
        found.update(match.glob("**/*") if match.is_dir() else {match})
    return found


def _is_unseen(path: Path, item: Path) -> bool:
    below = path.parts[len(item.parts) :]
    return path.name in SYSTEM_FILES or any(p.startswith(".") for p in (*below, path.name))
