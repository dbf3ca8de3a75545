"""Videos of surveillance cameras: normal ones to fit on, others with masks to test on."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.clips import Clip, ClipDataset, OnError, Truth, portion, spread
from datamodules.errors import DataError, DatasetError
from datamodules.images import Size
from datamodules.labelled import LabelledData
from datamodules.loading import Loader
from datamodules.video import read_named

_log = logging.getLogger(__name__)


class SurveillanceData(LabelledData):
    """Base of the data sets of videos.

    Batches are those of `LabelledData`. A path is that of a frame's own file or
    "<video>#<frame>", a defect is "good" or "anomaly". Test batches also hold {"video": list[str],
    "frame": int64 (B,)}. No batch mixes two videos.

    Args:
        root: the data set's folder.
        train_frames: how many, spread evenly over all that `train_stride` leaves; None for all.
        train_stride: keeps every n-th frame of a training video.
        test_stride: the same for a test video.
        on_error: "raise", or "skip" to leave out videos and frames that cannot be used, and warn.
        resize, crop, batch_size, num_workers: see `ImageDataModule`.

    Raises:
        ValueError: an argument is none of those described.
    """

    streamed = True

    train_folder: ClassVar[str]
    """Where the training videos are, under `root`."""

    train_names: ClassVar[str]
    """Their names there, for the error when there are none."""

    def __init__(
        self,
        root: str | Path,
        train_frames: int | None = None,
        train_stride: int = 1,
        test_stride: int = 1,
        on_error: OnError = "raise",
        resize: Size | None = 256,
        crop: Size | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(resize, crop, batch_size, num_workers)
        if train_frames is not None:
            require_positive("train_frames", train_frames)
        require_positive("train_stride", train_stride)
        require_positive("test_stride", test_stride)
        require_positive("batch_size", batch_size)
        if on_error not in get_args(OnError):
            raise ValueError(f"on_error must be one of {get_args(OnError)}, got {on_error!r}")
        self.folder = Path(root)
        self.train_frames = train_frames
        self.train_stride = train_stride
        self.test_stride = test_stride
        self.on_error = on_error

    @cached_property
    def train_clips(self) -> list[Clip]:
        """The normal videos with the frames to fit on; never empty."""
        videos = self._train_videos()
        if not videos:
            raise DatasetError(self._diagnosis())
        clips = self._usable(videos, lambda name: Clip.open(videos[name], self.train_stride))
        if not clips:
            raise DatasetError(f"{self.folder}: no training video of {self._subject} can be read")
        return spread(clips, self.train_frames)

    @cached_property
    def test_clips(self) -> list[Clip]:
        """The test videos with their truth; empty if there are none."""
        videos = self._test_videos()
        return self._usable(videos, lambda name: self._test_clip(*videos[name]))

    @property
    def has_test(self) -> bool:
        """Whether there is any test video."""
        return bool(self.test_clips)

    def setup(self, stage: str | None = None) -> None:
        """List and check all files now, so that a run does not fail when it is half done.

        Raises:
            DatasetError: a folder or a mask is missing, or masks and frames differ in number.
            ImageError: a video file cannot be opened.
        """
        _ = self.train_clips, self.test_clips  # listed on first access

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The training frames, once, without those counted."""
        return self._stream([clip.without(self.counted) for clip in self.train_clips])

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Every `test_stride`-th test frame, once."""
        return self._stream(self.test_clips)

    def picture(self, path: str) -> Tensor:
        """The image that a batch's path names, prepared as there: uint8 (3, H, W)."""
        return self.preprocessing.image(read_named(path), path)

    @property
    def _subject(self) -> str:
        """What the videos are of, for errors."""
        return self.name

    def _train_videos(self) -> dict[str, Path]:
        """Name -> video file or folder of frames, in the order they are read."""
        raise NotImplementedError

    def _test_videos(self) -> dict[str, tuple[Path, Path]]:
        """Name -> video and its masks, in the order they are read; either may be missing."""
        raise NotImplementedError

    def _truth(self, clip: Clip, masks: Path) -> Truth:
        """The truth of a test video; raises `DatasetError`."""
        raise NotImplementedError

    def _test_clip(self, video: Path, masks: Path) -> Clip:
        # A mask without a video is a data set unpacked in part, whose figures would mean nothing.
        if not video.exists():
            raise DatasetError(
                f"{video}: no such {'file' if video.suffix else 'folder'},"
                f" but {masks} says that there is this video: unpack it too"
            )
        clip = Clip.open(video, self.test_stride)
        return replace(clip, truth=self._truth(clip, masks))

    def _usable(self, names: Iterable[str], open_clip: Callable[[str], Clip]) -> list[Clip]:
        clips = []
        for name in names:
            try:
                clips.append(open_clip(name))
            except DataError as error:
                if self.on_error == "raise":
                    raise
                _log.warning("%s; video %s is left out", error, name)
        return clips

    def _stream(self, clips: list[Clip]) -> DataLoader[dict[str, Any]]:
        # By frames: there may be fewer videos than processes, or a long one among short ones.
        clips = portion(clips, self._share(sum(len(clip.wanted) for clip in clips)))
        frames = ClipDataset(clips, self.preprocessing, self.batch_size, self.on_error)
        # The data set makes the batches.
        return Loader(frames, min(self.num_workers, len(clips)), batch_size=None)

    def _diagnosis(self) -> str:
        """Why there is no training video, and what to do about it."""
        if not self.folder.is_dir():
            return f"{self.folder}: no such folder; put the data there"
        return (
            f"{self.folder}: no training videos; expected in {self.folder / self.train_folder} are"
            f" {self.train_names}"
        )


def require_positive(name: str, value: object) -> None:
    """Raise a `ValueError` unless an argument is a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def require_length(masks: Path, count: int, clip: Clip) -> None:
    """Raise a `DatasetError` unless there is one mask a frame."""
    if count != clip.length:
        raise DatasetError(
            f"{masks}: is for {count} frames, but {clip.path} has {clip.length}: unpack both again"
        )
