"""Videos, or folders of their frames -> batches, as a stream."""

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from datamodules.errors import DataError, DatasetError
from datamodules.images import Preprocessing, find_images, read_image
from datamodules.labelled import GOOD
from datamodules.video import frame_count, frame_path, read_frames

ANOMALY = "anomaly"
"""The `defect` of every anomalous frame."""

OnError = Literal["raise", "skip"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameTruth:
    """What is anomalous in a frame.

    Args:
        mask: bool (H, W).
        label: 1 anomalous, 0 normal.
        source: the file of the mask.
    """

    mask: Tensor
    label: int
    source: Path


class Truth(Protocol):
    """What is anomalous in a video; each data set reads its own."""

    def read(self, wanted: Sequence[int]) -> Iterator[FrameTruth]:
        """The truth of some frames, in their order; raises `DataError`."""


@dataclass(frozen=True)
class Clip:
    """A video and which of its frames are wanted; see `open`.

    Args:
        path: a video file, or a folder of its frames.
        length: of the video, in frames.
        wanted: frame numbers from 0, ascending.
        files: the frames of a folder, in order; none of a video file.
        truth: for a test.
    """

    path: Path
    length: int
    wanted: Sequence[int]
    files: Sequence[Path] = ()
    truth: Truth | None = None

    @classmethod
    def open(cls, path: Path, stride: int) -> "Clip":
        """Every `stride`-th frame of a video file or of a folder, sorted by number.

        Raises:
            DataError: there is no frame, or the file is no video.
        """
        files = sorted(find_images(path), key=natural_order) if path.is_dir() else []
        length = len(files) if path.is_dir() else frame_count(path)
        if not length:
            raise DatasetError(f"{path}: has no frames")
        return cls(path, length, range(0, length, stride), files)

    @property
    def parts(self) -> list[Sequence[int]]:
        """What is lost together: a folder's frames are read one by one, a file's in a row."""
        return [[number] for number in self.wanted] if self.files else [self.wanted]

    def read(self, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Number and image, uint8 (3, H, W), of frames; raises `ImageError`."""
        if self.files:
            return ((number, read_image(self.files[number])) for number in wanted)
        return read_frames(self.path, wanted)

    def without(self, names: Collection[str]) -> "Clip":
        """Less some frames, by the paths that they have in a batch."""
        if not names:
            return self
        return replace(self, wanted=[n for n in self.wanted if self.name(n) not in names])

    def name(self, number: int) -> str:
        """The path of a frame; see `read_named`."""
        return str(self.files[number]) if self.files else frame_path(self.path, number)


class ClipDataset(IterableDataset[dict[str, Any]]):
    """Whole batches of one video each, for a `DataLoader` with `batch_size=None`.

    Batches are {"image": uint8 (B, 3, H, W), "path": list[str]}. Those of a clip with its truth
    also hold {"mask": bool (B, H, W), "label": int64 (B,), 1 anomalous, "defect": list[str],
    "video": list[str], "frame": int64 (B,)}.

    As no batch mixes videos and each video belongs to one worker, `len` is exact for any number of
    workers. Lightning relies on it: it asks for no batch beyond.

    Args:
        clips: in the order they are read.
        preprocessing: of images and masks.
        batch_size: B; the last batch of a video holds what is left.
        on_error: "skip" leaves out frames that cannot be read, and warns.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        preprocessing: Preprocessing,
        batch_size: int,
        on_error: OnError = "raise",
    ) -> None:
        self.clips = clips
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.on_error = on_error
        self._left_out = 0

    def __len__(self) -> int:
        """Batches, before any are left out."""
        return sum(-(-len(clip.wanted) // self.batch_size) for clip in self.clips)

    @property
    def images(self) -> int:
        """Frames, before any are left out."""
        return sum(len(clip.wanted) for clip in self.clips)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        share, shares = (worker.id, worker.num_workers) if worker else (0, 1)
        self._left_out = 0
        try:
            for clip in deal(self.clips, shares)[share]:
                yield from self._batches(clip)
        finally:  # who counts batches may not come back after the last one
            if self._left_out:
                _log.warning("%d frames that cannot be read were left out", self._left_out)

    def _batches(self, clip: Clip) -> Iterator[dict[str, Any]]:
        samples = self._samples(clip)
        return map(default_collate, iter(lambda: list(islice(samples, self.batch_size)), []))

    def _samples(self, clip: Clip) -> Iterator[dict[str, Any]]:
        for part in clip.parts:
            done = 0
            truths = clip.truth.read(part) if clip.truth else repeat(None)
            try:
                for (number, image), truth in zip(clip.read(part), truths, strict=False):
                    yield self._sample(clip, number, image, truth)
                    done += 1
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self._left_out += len(part) - done
                _log.warning("%s; %d frames are left out", error, len(part) - done)

    def _sample(
        self, clip: Clip, number: int, image: Tensor, truth: FrameTruth | None
    ) -> dict[str, Any]:
        path = clip.name(number)
        sample = {"image": self.preprocessing.image(image, path), "path": path}
        if truth is None:
            return sample
        if truth.mask.shape != image.shape[-2:]:
            height, width = image.shape[-2:]
            raise DatasetError(
                f"{truth.source}: the masks are {' x '.join(map(str, truth.mask.shape))} px,"
                f" frame {path} is {height} x {width} px"
            )
        return sample | {
            "mask": self.preprocessing.mask(truth.mask, path),
            "label": truth.label,
            "defect": ANOMALY if truth.label else GOOD,
            "video": clip.path.stem,
            "frame": number,
        }


def spread(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """Keep `count` of the frames wanted, evenly spread over all clips; None or too many: all."""
    total = sum(len(clip.wanted) for clip in clips)
    if count is None or count >= total:
        return list(clips)
    kept = {i * total // count for i in range(count)}
    thinned, start = [], 0
    for clip in clips:
        wanted = [number for i, number in enumerate(clip.wanted, start) if i in kept]
        start += len(clip.wanted)
        if wanted:
            thinned.append(replace(clip, wanted=wanted))
    return thinned


def portion(clips: Sequence[Clip], frames: range) -> list[Clip]:
    """Keep some of the frames wanted, numbered over all clips in a row."""
    kept, start = [], 0
    for clip in clips:
        wanted = clip.wanted[max(0, frames.start - start) : max(0, frames.stop - start)]
        start += len(clip.wanted)
        if wanted:
            kept.append(replace(clip, wanted=wanted))
    return kept


def deal(clips: Sequence[Clip], shares: int) -> list[list[Clip]]:
    """Share out clips so that the frames wanted are about even: the longest first."""
    dealt: list[list[int]] = [[] for _ in range(shares)]
    loads = [0] * shares
    for i in sorted(range(len(clips)), key=lambda i: -len(clips[i].wanted)):
        lightest = loads.index(min(loads))
        dealt[lightest].append(i)
        loads[lightest] += len(clips[i].wanted)
    return [[clips[i] for i in sorted(share)] for share in dealt]


def natural_order(path: Path) -> list[str | int]:
    """Sorting key by the numbers in a name: 2.jpg, 10.jpg, 010.jpg."""
    parts = re.split(r"(\d+)", path.stem)
    return [int(part) if part.isdecimal() else part for part in parts]
