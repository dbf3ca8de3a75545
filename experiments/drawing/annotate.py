"""The frames of a video under their heat maps, as a video."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from datamodules import Preprocessing
from datamodules.clips import Clip
from experiments.drawing.pictures import Scale
from padim import place_in_original

CALIBRATION = 64
"""Frames that set the colours of all. What is drawn as it comes cannot wait for its highest score,
so the start of the video stands for normal: its median is dark, and a later score beyond what is
bright by it is as bright as colours get."""


class AnnotatedVideo:
    """Writes the frames of a video under their anomaly maps, with a label each, as these come.

    The frames keep their size, an odd side gets one pixel more, and are decoded anew in step with
    the maps. No more maps are held than the first `CALIBRATION` and a batch.

    Args:
        path: of the .mp4 file: H.264 where this build of FFmpeg has it, or else MPEG-4. There is
            none before the first frame is drawn.
        clip: the video, and the frames of it that are predicted.
        preprocessing: of the frames predicted.
        rate: frames a second to be shown.
        scale: colours of the scores; None for what the first frames give.
    """

    def __init__(
        self,
        path: Path,
        clip: Clip,
        preprocessing: Preprocessing,
        rate: Fraction,
        scale: Scale | None = None,
    ) -> None:
        self.path = path
        self.preprocessing = preprocessing
        self.rate = rate
        self._frames = clip.read(clip.wanted)
        self._waiting: list[tuple[str, np.ndarray]] = []
        self._scale = scale
        self._output: tuple[OutputContainer, VideoStream] | None = None

    def add(self, labels: Sequence[str], maps: np.ndarray) -> None:
        """Take the labels (B) and maps (B, H, W) of the next frames.

        Raises:
            ImageError: a frame cannot be decoded.
        """
        self._waiting += zip(labels, maps, strict=True)
        if self._scale or len(self._waiting) >= CALIBRATION:
            self._draw()

    def close(self) -> None:
        """Draw what still waits and end the file, which then plays even if frames are missing."""
        try:
            self._draw()
        finally:
            if self._output:
                container, stream = self._output
                container.mux(stream.encode())
                container.close()

    def _draw(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._scale:
            self._scale = Scale.of(np.stack([m for _, m in waiting[:CALIBRATION]]))
        for (label, anomaly_map), (_, frame) in zip(waiting, self._frames, strict=False):
            assert self._scale
            size = (frame.shape[1], frame.shape[2])
            window = self.preprocessing.window(*size)
            placed = place_in_original(torch.from_numpy(anomaly_map), window, size).numpy()
            image = self._scale.overlay(frame.permute(1, 2, 0).numpy(), placed)
            self._write(_label(image, label))

    def _write(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._output = self._output or _open(self.path, even.shape[:2], self.rate)
        container, stream = self._output
        container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))


def _open(path: Path, size: tuple[int, ...], rate: Fraction) -> tuple[OutputContainer, VideoStream]:
    """An .mp4 file with a stream of video for frames of `size` (H, W)."""
    container = av.open(str(path), "w")
    if "libx264" in av.codecs_available:
        fast = {"preset": "veryfast"}  # the default would take longer than the scores
        stream = container.add_stream("libx264", rate, options=fast)
    else:
        stream = container.add_stream("mpeg4", rate)
        stream.bit_rate = round(0.2 * size[0] * size[1] * rate)  # there is no good default
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    return container, stream


def _label(image: np.ndarray, text: str) -> np.ndarray:
    """A copy of an image, uint8 (H, W, 3), with a text in its upper left corner."""
    canvas = Image.fromarray(image)
    font = ImageFont.load_default(max(10, image.shape[0] // 20))
    ImageDraw.Draw(canvas).text((4, 2), text, "white", font, stroke_width=2, stroke_fill="black")
    return np.asarray(canvas)
