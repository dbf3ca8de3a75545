"""Plain image and video files, without labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from datamodules.clips import Clip, ClipDataset
from datamodules.decoding import count_pages, read_oriented
from datamodules.errors import DataError, require_positive
from datamodules.ignoring import own_masks
from datamodules.loading import ImageDataModule, ImageDataset, Loader, Loading
from datamodules.notices import join_notices
from datamodules.preprocessing import Preprocessing
from datamodules.samples import own_ignored
from datamodules.video import frame_path


class ImageFiles(ImageDataModule):
    """Images to predict on, in batches of those that can be read.

    A batch is {"image": uint8 (B, 3, H, W), "path": list[str], "size": int (B, 2), "window": float
    (B, 4), "skipped": list[(str, str)]}: `size` is (H, W) of the original, `window` what the image
    shows of it (see `Preprocessing.window`), `skipped` the files that cannot be read, by path and
    reason. Where this is true of all, a batch has 0 images, and neither `size` nor `window`. Where
    images may have masks of their own (see `own_masks`) it has {"ignored": bool (B, H, W)}, too.

    Args:
        paths: of the files.
        preprocessing, loading: see `ImageDataModule`; nothing is cropped at random.
        pages: also read all pages of a file that has several: one's path is "<file>#<number>", from
            0. Otherwise the largest is read.

    Attributes:
        files: the file of each path that a batch can have.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
        pages: bool = False,
    ) -> None:
        super().__init__(_centred(preprocessing), loading)
        self._images: list[tuple[Path, int | None]] = []
        for path in paths:
            numbers = range(count_pages(path) if pages else 1)
            self._images += [(path, n if len(numbers) > 1 else None) for n in numbers]
        self.files = {_named(*image): image[0] for image in self._images}

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The images, once, in the order of `paths`."""
        files = _Files(self._images, self.preprocessing)
        files.ignored = own_masks(self.preprocessing.ignore_folder, self.files.values())
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

    ignored: Mapping[Path, tuple[Path]]

    def depends_on(self, source: tuple[Path, int | None]) -> tuple[Sequence[Path], object]:
        return [source[0], *self.ignored.get(source[0], ())], source[1]

    def item(self, source: tuple[Path, int | None]) -> dict[str, Any]:
        path, page = source
        try:
            image, turn = read_oriented(path, self.preprocessing.bits, page)
            prepared = {"image": self.preprocessing.image(image, path)}
            masks = self.ignored.get(path, ())
            prepared |= own_ignored(self.preprocessing, image, turn, path, masks)
        except DataError as error:
            return {"path": _named(*source), "reason": str(error).removeprefix(f"{path}: ")}
        return {**prepared, "path": _named(*source), **_origin(image, self.preprocessing)}


class _Frames(ClipDataset):
    """Adds to a frame where it comes from, as `_Files` does."""

    def _sample(self, clip: Clip, number: int, image: Tensor, *args: Any) -> dict[str, Any]:
        sample = super()._sample(clip, number, image, *args)
        return {**sample, **_origin(image, self.preprocessing)}


def _named(path: Path, page: int | None) -> str:
    return str(path) if page is None else frame_path(path, page)


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
