"""The frames of a video under their heat maps, as a video."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from datamodules import Clip, Preprocessing
from experiments.drawing.pictures import ColouredByStart, Scale
from padim import place_in_original


class AnnotatedVideo(ColouredByStart):
    """Writes the frames of a video under their anomaly maps, with a label each, as these come.

    The frames keep their size, an odd side gets one pixel more, and are decoded anew in step with
    the maps. `add` raises an `ImageError` where one cannot be decoded.

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
        super().__init__(scale)
        self.path = path
        self.preprocessing = preprocessing
        self.rate = rate
        self._frames = clip.read(clip.wanted, preprocessing.bits)
        self._output: tuple[OutputContainer, VideoStream] | None = None

    def close(self) -> None:
        """Draw what still waits and end the file, which then plays even if frames are missing."""
        try:
            self.flush()
        finally:
            if self._output:
                container, stream = self._output
                container.mux(stream.encode())
                container.close()

    def _draw(self, item: str, anomaly_map: np.ndarray) -> None:
        assert self.scale
        _, frame = next(self._frames)
        size = (frame.shape[1], frame.shape[2])
        window = self.preprocessing.window(*size)
        placed = place_in_original(torch.from_numpy(anomaly_map), window, size).numpy()
        image = self.scale.overlay(frame.permute(1, 2, 0).numpy(), placed)
        self._write(_label(image, item))

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
