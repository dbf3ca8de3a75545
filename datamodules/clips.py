"""Videos, or folders of their frames -> batches, as a stream."""

import logging
import re
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.decoding import read_image
from datamodules.errors import DataError, DatasetError
from datamodules.finding import find_images
from datamodules.loading import collate
from datamodules.notices import hold_notices
from datamodules.preprocessing import Preprocessing
from datamodules.samples import GOOD, require_mask_of
from datamodules.video import frame_count, frame_path, read_frames

ANOMALY = "anomaly"
"""The `defect` of every anomalous frame."""

OnError = Literal["raise", "skip"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotations:
    """The anomalous part of a video.

    Args:
        read: source and mask, bool (H, W), of frames by their numbers; raises `DataError`.
        labels: of all frames, 1 anomalous, 0 normal; None: any with an anomalous pixel is.
    """

    read: Callable[[Sequence[int]], Iterator[tuple[Path, Tensor]]]
    labels: Sequence[int] | None = None


@dataclass(frozen=True)
class Clip:
    """A video and which of its frames are wanted; see `open`.

    Args:
        path: a video file, or a folder of its frames.
        length: of the video, in frames.
        wanted: frame numbers from 0, ascending.
        files: the frames of a folder, in order; none of a video file.
        annotations: for a test.
    """

    path: Path
    length: int
    wanted: Sequence[int]
    files: Sequence[Path] = ()
    annotations: Annotations | None = None

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

    def read(self, wanted: Sequence[int], bits: int | None) -> Iterator[tuple[int, Tensor]]:
        """Number and image, uint8 (3, H, W), of frames, as of `read_image`; raises `ImageError`."""
        if self.files:
            return ((number, read_image(self.files[number], bits)) for number in wanted)
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

    Batches are those of `datamodules.labelled`; of a clip with annotations they also hold
    {"video": list[str], "frame": int64 (B,)}.

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
        return count_frames(self.clips)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        self._left_out = 0
        try:
            for clip in shard(self.clips, workers)[number]:
                yield from self._batches(clip)
        finally:  # who counts batches may not come back after the last one
            if self._left_out:
                _log.warning("%d frames that cannot be read were left out", self._left_out)

    def _batches(self, clip: Clip) -> Iterator[dict[str, Any]]:
        samples = self._samples(clip)

        def next_batch() -> dict[str, Any]:
            with hold_notices() as notices:
                items = list(islice(samples, self.batch_size))
            return {**collate(items), "notices": notices} if items else {}

        return iter(next_batch, {})

    def _samples(self, clip: Clip) -> Iterator[dict[str, Any]]:
        for part in clip.parts:
            done = 0
            masks = clip.annotations.read(part) if clip.annotations else repeat(None)
            frames = clip.read(part, self.preprocessing.bits)
            try:
                for (number, image), mask in zip(frames, masks, strict=False):
                    yield self._sample(clip, number, image, mask)
                    done += 1
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self._left_out += len(part) - done
                _log.warning("%s; %d frames are left out", error, len(part) - done)

    def _sample(
        self, clip: Clip, number: int, image: Tensor, annotation: tuple[Path, Tensor] | None
    ) -> dict[str, Any]:
        path = clip.name(number)
        if not (annotation and clip.annotations):
            return {"image": self.preprocessing.image(image, path), "path": path}
        source, mask = annotation
        require_mask_of(image, mask, path, source)
        labels = clip.annotations.labels
        label = labels[number] if labels else int(mask.any())
        return {
            **self.preprocessing.pair(image, mask, path),
            "path": path,
            "label": label,
            "defect": ANOMALY if label else GOOD,
            "video": clip.path.stem,
            "frame": number,
        }


def count_frames(clips: Sequence[Clip]) -> int:
    """Frames wanted of all clips."""
    return sum(len(clip.wanted) for clip in clips)


def subsample(clips: Sequence[Clip], count: int | None) -> list[Clip]:
    """Keep `count` of the frames wanted, evenly spread over all clips; None or too many: all."""
    total = count_frames(clips)
    if count is None or count >= total:
        return list(clips)
    return subset(clips, {i * total // count for i in range(count)})


def subset(clips: Sequence[Clip], kept: Container[int]) -> list[Clip]:
    """Keep some of the frames wanted, numbered over all clips in a row."""
    chosen, start = [], 0
    for clip in clips:
        wanted = [number for i, number in enumerate(clip.wanted, start) if i in kept]
        start += len(clip.wanted)
        if wanted:
            chosen.append(replace(clip, wanted=wanted))
    return chosen


def shard(clips: Sequence[Clip], count: int) -> list[list[Clip]]:
    """Split clips into `count` lists with about as many frames wanted each: the longest first."""
    shards: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for i in sorted(range(len(clips)), key=lambda i: -len(clips[i].wanted)):
        lightest = loads.index(min(loads))
        shards[lightest].append(i)
        loads[lightest] += len(clips[i].wanted)
    return [[clips[i] for i in sorted(chosen)] for chosen in shards]


def natural_order(path: Path) -> list[str | int]:
    """Sorting key by the numbers in a name: 2.jpg, 10.jpg, 010.jpg."""
    parts = re.split(r"(\d+)", path.stem)
    return [int(part) if part.isdecimal() else part for part in parts]
