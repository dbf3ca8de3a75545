"""Videos of surveillance cameras: normal ones to fit on, others with masks to test on."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.clips import (
    Annotations,
    Clip,
    ClipDataset,
    OnError,
    count_frames,
    subsample,
    subset,
)
from datamodules.errors import DataError, DatasetError, require_choice, require_positive
from datamodules.labelled import LabelledData
from datamodules.loading import Loader, Loading
from datamodules.preprocessing import Preprocessing

_log = logging.getLogger(__name__)


class SurveillanceData(LabelledData):
    """Base of the data sets of videos.

    Batches are those of `ClipDataset`: a path is that of a frame's own file or "<video>#<frame>", a
    defect is "good" or "anomaly", and no batch mixes two videos.

    Attributes:
        train_folder: where the training videos are, under `root`.
        train_names: their names there, for the error when there are none.

    Args:
        root: the data set's folder.
        train_frames: how many, spread evenly over all that `train_stride` leaves; None for all.
        train_stride: keeps every n-th frame of a training video.
        test_stride: the same for a test video.
        on_error: "raise", or "skip" to leave out videos and frames that cannot be used, and warn.
        preprocessing, loading: see `ImageDataModule`; the whole frames by default.

    Raises:
        ValueError: an argument is none of those described.
    """

    default_preprocessing = Preprocessing(crop=None)
    streamed = True
    train_folder: ClassVar[str]
    train_names: ClassVar[str]

    def __init__(
        self,
        root: str | Path,
        train_frames: int | None = None,
        train_stride: int = 1,
        test_stride: int = 1,
        on_error: OnError = "raise",
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
    ) -> None:
        super().__init__(preprocessing, loading)
        if folder := self.preprocessing.ignore_folder:
            raise ValueError(
                f"preprocessing.ignore={folder}: single frames have no masks: give one for all"
            )
        require_positive("train_frames", 1 if train_frames is None else train_frames)
        require_positive("train_stride", train_stride)
        require_positive("test_stride", test_stride)
        require_choice("on_error", on_error, OnError)
        self.folder = Path(root).expanduser()
        self.preprocessing = replace(self.preprocessing, root=self.folder)
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
        clips = self._open([(video, None) for video in videos], self.train_stride)
        if not clips:
            place = f"{self.category_key} {self.name}"
            raise DatasetError(f"{self.folder}: no training video of {place} can be read")
        return subsample(clips, self.train_frames)

    @cached_property
    def test_clips(self) -> list[Clip]:
        """The test videos with their annotations; empty if there are none."""
        return self._open(self._test_videos(), self.test_stride)

    @property
    def train_files(self) -> list[Path]:
        clips = [clip for clip in self.train_clips if clip.files]
        return [clip.files[number] for clip in clips for number in clip.wanted]

    @property
    def example(self) -> Tensor:
        clip = self.train_clips[0]
        ((_, image),) = clip.read(clip.wanted[:1], self.preprocessing.bits)
        return image

    @property
    def has_test(self) -> bool:
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
        self.find_bits()
        return self._stream([clip.without(self.counted) for clip in self.train_clips])

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Every `test_stride`-th test frame, once."""
        return self._stream(self.test_clips)

    def _train_videos(self) -> list[Path]:
        """Video files or folders of frames, in the order they are read."""
        raise NotImplementedError

    def _test_videos(self) -> list[tuple[Path, Path]]:
        """Videos and their masks, in the order they are read; either may be missing."""
        raise NotImplementedError

    def _annotations(self, clip: Clip, masks: Path) -> Annotations:
        """The annotations of a test video; raises `DatasetError`."""
        raise NotImplementedError

    def _open(self, videos: Sequence[tuple[Path, Path | None]], stride: int) -> list[Clip]:
        clips = []
        for video, masks in videos:
            try:
                # Masks alone are a data set unpacked in part, whose figures would mean nothing.
                if masks and not video.exists():
                    raise DatasetError(
                        f"{video}: no such {'file' if video.suffix else 'folder'},"
                        f" but {masks} says that there is this video: unpack it too"
                    )
                clip = Clip.open(video, stride)
                annotations = self._annotations(clip, masks) if masks else None
                clips.append(replace(clip, annotations=annotations))
            except DataError as error:
                if self.on_error == "raise":
                    raise
                _log.warning("%s; video %s is left out", error, video.stem)
        return clips

    def _stream(self, clips: list[Clip]) -> DataLoader[dict[str, Any]]:
        # By frames: there may be fewer videos than processes, or a long one among short ones.
        clips = subset(clips, self._shard(count_frames(clips)))
        frames = ClipDataset(clips, self.preprocessing, self.loading.batch_size, self.on_error)
        # The data set makes the batches.
        return Loader(frames, num_workers=min(self.loading.workers, len(clips)), batch_size=None)

    def _diagnosis(self) -> str:
        """Why there is no training video, and what to do about it."""
        if not self.folder.is_dir():
            return f"{self.folder}: no such folder; put the data there"
        return (
            f"{self.folder}: no training videos; expected in {self.folder / self.train_folder} are"
            f" {self.train_names}"
        )


def numbered(paths: Iterable[Path], pattern: str) -> dict[tuple[int, ...], Path]:
    """Paths whose stem matches a pattern as a whole, by the numbers in it, sorted by these."""
    matches = ((re.fullmatch(pattern, path.stem), path) for path in paths)
    found = {tuple(map(int, match.groups())): path for match, path in matches if match}
    return dict(sorted(found.items()))


def require_length(masks: Path, count: int, clip: Clip) -> None:
    """Raise a `DatasetError` unless there is one mask a frame."""
    if count != clip.length:
        raise DatasetError(
            f"{masks}: is for {count} frames, but {clip.path} has {clip.length}: unpack both again"
        )


@contextmanager
def reading_masks(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file of masks into a `DatasetError` with its path."""
    try:
        yield
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; each test video needs its masks") from None
    except Exception as error:  # damage surfaces as OSError, MatReadError, zlib.error, ...
        raise DatasetError(f"{path}: cannot be read as masks: {error}") from error
