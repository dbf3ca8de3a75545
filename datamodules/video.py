"""Video files -> frames, as a stream: a video is never whole in memory nor written out."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from datamodules.decoding import read_image
from datamodules.errors import ImageError

if TYPE_CHECKING:  # a run on images does without
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream


def frame_count(path: str | Path) -> int:
    """Frames of a video file, as its header says, or else its packets; raises `ImageError`."""
    with _open(path) as (container, stream):
        return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))


def frame_rate(path: str | Path) -> Fraction:
    """Frames a second of a video file, on average; raises `ImageError`."""
    with _open(path) as (_, stream):
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return rate.limit_denominator(1001)  # 30000 / 1001; formats have no room for any fraction


def read_frames(path: str | Path, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """Decode a video file up to the last of the frames wanted.

    Args:
        path: of the file.
        wanted: frame numbers from 0, ascending; the others are decoded, as those after them need
            them, and dropped.

    Yields:
        Number and RGB image, uint8 (3, H, W), of each frame wanted.

    Raises:
        ImageError: the file is missing, no video, damaged, or ends before a frame wanted. Names
            the path and the frame.
    """
    from av.error import FFmpegError
    from av.video.reformatter import VideoReformatter

    chosen, last, number = frozenset(wanted), max(wanted, default=-1), -1
    converter = VideoReformatter()  # a frame's own would be set up anew for each: 5 times slower
    with _open(path) as (container, stream):
        try:
            for number, frame in enumerate(islice(container.decode(stream), last + 1)):
                if frame.is_corrupt:  # decoders fill what they cannot read with a guess
                    raise ImageError(f"{path}: frame {number} is damaged")
                if number in chosen:
                    yield number, _rgb(frame, converter)
        except FFmpegError as error:
            raise ImageError(
                f"{path}: frame {number + 1} cannot be decoded: {error.strerror}"
            ) from error
    if number < last:
        first = min(n for n in chosen if n > number)
        raise ImageError(
            f"{path}: decoded {number + 1} of {frame_count(path)} frames,"
            f" so there is no frame {first}"
        )


def frame_path(video: str | Path, number: int) -> str:
    """The text that names a frame of a video file where an image has its path."""
    return f"{video}#{number}"


def read_named(path: str, bits: int | None = None) -> Tensor:
    """The image, uint8 (3, H, W), of a path, which may be one of `frame_path`; see `read_image`."""
    frame = re.fullmatch(r"(.+)#(\d+)", path)
    if frame is None:
        return read_image(path, bits)
    # Decoded from the start: not every container says which frame a seek has led to.
    ((_, image),) = read_frames(frame[1], [int(frame[2])])
    return image


@contextmanager
def _open(path: str | Path) -> "Iterator[tuple[InputContainer, VideoStream]]":
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path}: has no video stream")
            stream = container.streams.video[0]
            if get_worker_info():
                stream.codec_context.thread_count = 1  # the workers keep all cores busy
            else:
                stream.thread_type = "AUTO"
            yield container, stream
    except FFmpegError as error:
        raise ImageError(f"{path}: cannot be read as a video: {error.strerror}") from error


def _rgb(frame: "VideoFrame", converter: "VideoReformatter") -> Tensor:
    """The pixels, turned as the phone says that it was held."""
    pixels = torch.from_numpy(converter.reformat(frame, format="rgb24").to_ndarray())
    image, turns = pixels.permute(2, 0, 1), round(frame.rotation / 90)
    return torch.rot90(image, turns, (1, 2)) if turns else image
