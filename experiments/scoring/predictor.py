"""Images and videos scored under a Lightning trainer, into a run folder."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import count, repeat
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules import (
    DataError,
    ImageError,
    ImageFiles,
    Loading,
    Preprocessing,
    VideoFrames,
    frame_rate,
    is_video,
)
from experiments.build import new_trainer
from experiments.drawing.anomaly_curve import draw_anomaly_curve
from experiments.drawing.pictures import ColouredByStart, draw
from experiments.files import short
from experiments.scoring.predictions import PredictionFiles
from experiments.scoring.verdicts import Scored, Verdicts
from padim import LitPaDiM

PICTURES, VIDEOS, MAPS = "pictures", "videos", "maps"
"""Written beside the files, in the run folder."""

Take = Callable[[list[Scored], Tensor, np.ndarray, np.ndarray | None], None]
"""Is given of a batch the outcome, images (B, 3, H, W), maps and what is ignored (B, H, W)."""

log = logging.getLogger(__name__)


class Predictor(Callback):
    """Scores images and videos; as its trainer's callback it writes each batch as it comes.

    Args:
        config: of the run.
        module: a fitted model.
        preprocessing: of images and frames, as for the fit.
        files: take the outcome, and have the verdicts.
        callbacks: of the trainer, besides.
    """

    def __init__(
        self,
        config: DictConfig,
        module: LitPaDiM,
        preprocessing: Preprocessing,
        files: PredictionFiles,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config, self.module, self.files = config, module, files
        self.preprocessing = preprocessing
        self.loading: Loading = instantiate(config.loading)
        self.trainer = new_trainer(config, files.folder, [self, *callbacks], alone=True)
        self.live = False
        self._overlays = Overlays(files.verdicts)
        self._numbers = count()
        self._name: Callable[[str], str]
        self._take: Take

    def go_live(self) -> None:
        """Print a line a file from now on, and start nothing that would take time."""
        self.live = True
        self.loading = replace(self.loading, num_workers=0)
        if self.trainer.progress_bar_callback:
            self.trainer.progress_bar_callback.disable()

    def score(self, paths: list[Path]) -> None:
        """Score files, the images first; those that cannot be read are skipped."""
        self.files.retry(paths)
        if images := [path for path in paths if not is_video(path)]:
            self._score_images(images)
        for path in filter(is_video, paths):
            try:
                self._score_video(path)
            except DataError as error:
                self._skip([(str(path), str(error).removeprefix(f"{path}: "))])

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: int
    ) -> None:
        """Write the outcome of a batch of `ImageFiles` or `VideoFrames`."""
        self._skip(batch.get("skipped", []))
        if batch["path"]:
            maps = outputs["maps"].cpu().numpy()
            scored = self.files.verdicts.judge(batch, outputs["scores"], maps)
            self.files.write(scored)
            if self.config.raw:
                for path, anomaly_map in zip(batch["path"], maps, strict=True):
                    np.save(self._subfolder(MAPS) / f"{self._name(path)}.npy", anomaly_map)
            ignored = outputs["ignored"].cpu().numpy() if "ignored" in outputs else None
            self._take(scored, batch["image"].cpu(), maps, ignored)

    def _score_images(self, paths: list[Path]) -> None:
        files = ImageFiles(paths, self.preprocessing, self.loading, self.config.pages)
        if self.config.raw:
            warn_of_size(len(files.files), self.preprocessing.image_size)
        names = {shown: self._numbered(path) for shown, path in files.files.items()}

        def take(
            scored: list[Scored], images: Tensor, maps: np.ndarray, ignored: np.ndarray | None
        ) -> None:
            hides = repeat(None) if ignored is None else ignored
            for one, image, anomaly_map, hidden in zip(scored, images, maps, hides, strict=False):
                if self.live:
                    say(str(one))
                if self.config.pictures:
                    shown = (..., *self.preprocessing.unpadded(*one.size))
                    path = self._subfolder(PICTURES) / f"{names[one.path]}.png"
                    striped = None if hidden is None else hidden[shown]
                    item = path, one.title, image[shown], striped
                    self._overlays.add([item], [anomaly_map[shown]])

        self._predict(files, names.__getitem__, take)
        self._overlays.flush()

    def _score_video(self, path: Path) -> None:
        from experiments.drawing.annotate import AnnotatedVideo  # imports FFmpeg

        data = VideoFrames(path, self.config.stride, self.preprocessing, self.loading)
        name, wanted = self._numbered(path), data.clip.wanted
        log.info("%s: %d frames", path, len(wanted))
        if self.config.raw:
            warn_of_size(len(wanted), data.image_size)
        rate = frame_rate(path) / data.stride
        video = None
        if self.config.pictures:
            target = self._subfolder(VIDEOS) / f"{name}.mp4"
            scale = self.files.verdicts.scale
            video = AnnotatedVideo(target, data.clip, data.preprocessing, rate, scale)
        curve: list[float] = []
        highest: list[Scored] = []

        def take(scored: list[Scored], _: Tensor, maps: np.ndarray, __: Any) -> None:
            curve.extend(one.score for one in scored)
            highest[:] = [max([*highest, *scored], key=lambda one: one.score)]
            if video:
                video.add([one.label for one in scored], maps)

        try:
            self._predict(data, lambda frame: f"{name}_{int(frame.rpartition('#')[2]):06}", take)
        finally:  # what was scored before an error can be looked at
            if video:
                video.close()
            if video and curve:
                picture = self._subfolder(PICTURES) / f"{name}_course.png"
                seconds = [i / float(rate) for i in range(len(curve))]
                draw_anomaly_curve(seconds, curve, path.name, picture, "seconds")
        if self.live and highest:
            say(str(highest[0]))
        if left_out := len(wanted) - len(curve):
            frame = wanted[len(curve)]
            raise ImageError(f"frame {frame} cannot be read, {left_out} frames are left out")

    def _predict(
        self, data: ImageFiles | VideoFrames, name: Callable[[str], str], take: Take
    ) -> None:
        """Predict data; `name` is that of the raw map of a path."""
        self._name, self._take = name, take
        try:
            self.trainer.predict(self.module, datamodule=data, return_predictions=False)
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
                raise KeyboardInterrupt from None
            raise

    def _skip(self, files: list[tuple[str, str]]) -> None:
        self.files.skip(files)
        if self.live:
            for path, reason in files:
                say(f"skipped    {path}: {reason}")

    def _numbered(self, path: Path) -> str:
        """The name of what is written of a file; a number keeps namesakes apart."""
        return short(f"{next(self._numbers):05}_{path.stem}")

    def _subfolder(self, name: str) -> Path:
        (self.files.folder / name).mkdir(exist_ok=True)
        return self.files.folder / name


class Overlays(ColouredByStart):
    """Draws images beside their maps.

    Takes the path, title and image (3, H, W) of each, and which pixels are ignored or None.
    """

    def __init__(self, verdicts: Verdicts) -> None:
        super().__init__(verdicts.scale)
        self.verdicts = verdicts

    def _draw(
        self, item: tuple[Path, str, Tensor, np.ndarray | None], anomaly_map: np.ndarray
    ) -> None:
        assert self.scale
        path, title, image, ignored = item
        drawn = draw(
            image.permute(1, 2, 0).numpy(),
            anomaly_map,
            self.scale,
            title,
            threshold=self.verdicts.pixel_threshold,
            extent=self.verdicts.extent,
            ignored=ignored,
        )
        drawn.save(path, compress_level=1)


def warn_of_size(maps: int, image_size: tuple[int, int]) -> None:
    """Warn of the disk that raw maps take, where it is much."""
    gigabytes = maps * math.prod(image_size) * 4 / 1e9  # float32
    if gigabytes > 1:
        log.warning("--raw writes %d maps, %.1f GB", maps, gigabytes)


def say(text: str) -> None:
    """Print a line with the time, at once."""
    sys.stdout.write(f"{datetime.now():%H:%M:%S}  {text}\n")
    sys.stdout.flush()
