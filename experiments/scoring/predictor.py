"""Scoring images and videos into a run folder."""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from torch import Tensor
from tqdm import tqdm

from datamodules import DataError, ImageError, ImageFiles, VideoFrames, frame_rate, is_video
from experiments.drawing.annotate import AnnotatedVideo
from experiments.drawing.courses import draw_course
from experiments.drawing.pictures import Scale, draw
from experiments.scoring.predictions import PredictionFiles
from experiments.scoring.verdicts import Scored, Verdicts
from padim import LitPaDiM

FOLDERS = PICTURES, VIDEOS, MAPS = "pictures", "videos", "maps"
"""What is written beside the files, in the run folder."""

log = logging.getLogger(__name__)


class Picture(NamedTuple):
    """What is drawn of an image: as it was prepared, without padding.

    Attributes:
        name: of the file, without suffix.
        title: a line above.
        image: uint8 (3, H, W).
        anomaly_map: (H, W).
    """

    name: str
    title: str
    image: Tensor
    anomaly_map: np.ndarray


class Predictor:
    """Scores images and videos into one run folder, with pictures and raw maps if asked for.

    Args:
        config: of the run.
        folder: of the run.
        module: a fitted model.
        prepared: arguments of data modules, as for the fit.
        trainer: says on which device and in which precision.
        verdicts: tell what is anomalous.
        files: take what is told.

    Attributes:
        live: whether files come one by one: each gets a line, and nothing is started that would
            take time.
    """

    def __init__(
        self,
        config: DictConfig,
        folder: Path,
        module: LitPaDiM,
        prepared: dict[str, Any],
        trainer: Trainer,
        verdicts: Verdicts,
        files: PredictionFiles,
    ) -> None:
        self.config = config
        self.folder = folder
        self.trainer = trainer
        self.device = trainer.strategy.root_device
        self.module = module.to(self.device)
        self.prepared = {**prepared, "batch_size": config.batch_size}
        self.verdicts = verdicts
        self.files = files
        self.live = False
        self._scale = verdicts.scale
        self._numbers = count()

    def score(self, paths: list[Path]) -> None:
        """Score files, the images first; those that cannot be read are skipped."""
        self.files.retry(paths)
        options = {**self.prepared, "num_workers": 0 if self.live else self.config.num_workers}
        images: list[Path] = []
        videos: list[VideoFrames] = []
        for path in paths:
            if not is_video(path):
                images.append(path)
                continue
            video = VideoFrames(path, self.config.stride, **options)
            with self._skipping(path):
                video.setup()
                videos.append(video)
        data = ImageFiles(images, **options)
        if self.config.raw:
            frames = sum(len(video.clip.wanted) for video in videos)
            warn_of_size(len(images) + frames, data.image_size)
        if images:
            self._score_images(data)
        for video in videos:
            with self._skipping(video.path):
                self._score_video(video)

    def _score_images(self, data: ImageFiles) -> None:
        names = {str(path): f"{next(self._numbers):05}_{path.stem}" for path in data.paths}
        waiting: list[Picture] = []
        for scored, images, maps in self._scored(data, len(names), names.__getitem__):
            if self.live:
                for one in scored:
                    say(str(one))
            if not self.config.pictures:
                continue
            for one, image, anomaly_map in zip(scored, images, maps, strict=True):
                rows, columns = data.preprocessing.unpadded(*one.size)
                shown = image[:, rows, columns], anomaly_map[rows, columns]
                picture = Picture(names[one.path], one.title, *shown)
                if self._scale:
                    self._draw(picture, self._scale)
                else:
                    waiting.append(picture._replace(anomaly_map=shown[1].astype(np.float16)))
        if waiting:
            pixels = np.concatenate([p.anomaly_map[::4, ::4].ravel() for p in waiting])
            peaks = np.array([p.anomaly_map.max() for p in waiting])
            self._scale = Scale.of_sample(pixels, peaks)
            for picture in tqdm(waiting, desc="Drawing", unit="img", disable=None):
                self._draw(picture, self._scale)

    def _draw(self, picture: Picture, scale: Scale) -> None:
        drawn = draw(
            picture.image.permute(1, 2, 0).numpy(),
            picture.anomaly_map.astype(np.float32),
            scale,
            picture.title,
            threshold=self.verdicts.pixel_threshold,
            extent=self.verdicts.extent,
        )
        drawn.save(self._subfolder(PICTURES) / f"{picture.name}.png", compress_level=1)

    def _score_video(self, data: VideoFrames) -> None:
        name, wanted = f"{next(self._numbers):05}_{data.path.stem}", data.clip.wanted
        log.info("%s: %d frames", data.path, len(wanted))
        rate = frame_rate(data.path) / data.stride
        video = None
        if self.config.pictures:
            path = self._subfolder(VIDEOS) / f"{name}.mp4"
            video = AnnotatedVideo(path, data.clip, data.preprocessing, rate, self.verdicts.scale)
        course: list[float] = []
        highest: list[Scored] = []

        def raw_name(path: str) -> str:
            return f"{name}_{int(path.rpartition('#')[2]):06}"

        try:
            for scored, _, maps in self._scored(data, len(wanted), raw_name):
                course += [one.score for one in scored]
                highest = [max([*highest, *scored], key=lambda one: one.score)]
                if video:
                    video.add([one.label for one in scored], maps)
        finally:  # what was scored before an error can be looked at
            if video:
                video.close()
            if video and course:
                picture = self._subfolder(PICTURES) / f"{name}_course.png"
                seconds = [i / float(rate) for i in range(len(course))]
                draw_course(seconds, course, data.path.name, picture, "seconds")
        if self.live and highest:
            say(str(highest[0]))
        if left_out := len(wanted) - len(course):
            frame = wanted[len(course)]
            raise ImageError(
                f"{data.path}: frame {frame} cannot be read, {left_out} frames are left out"
            )

    def _scored(
        self, data: ImageFiles | VideoFrames, total: int, raw_name: Callable[[str], str]
    ) -> Iterator[tuple[list[Scored], Tensor, np.ndarray]]:
        """What is told of each batch, with its images (B, 3, H, W) and maps (B, H, W).

        Args:
            data: gives the batches.
            total: number of images.
            raw_name: of a raw map, from the path of the image.
        """
        raw = self._subfolder(MAPS) if self.config.raw else None
        options: dict[str, Any] = {"unit": "img", "dynamic_ncols": True}
        options["disable"] = True if self.live else None  # None: where there is no terminal
        with tqdm(desc="Scoring", total=total, **options) as bar:
            for batch in data.predict_dataloader():
                skipped = batch.get("skipped", [])
                self._skip(skipped)
                bar.update(len(skipped) + len(batch["path"]))
                if not batch["path"]:
                    continue
                with torch.inference_mode(), self.trainer.precision_plugin.forward_context():
                    prediction = self.module(batch["image"].to(self.device))
                scored = self.verdicts.judge(batch, prediction)
                self.files.write(scored)
                maps = prediction.maps.cpu().numpy()
                if raw:
                    for path, anomaly_map in zip(batch["path"], maps, strict=True):
                        np.save(raw / f"{raw_name(path)}.npy", anomaly_map)
                yield scored, batch["image"], maps

    @contextmanager
    def _skipping(self, path: Path) -> Iterator[None]:
        """Go on with the others where a file cannot be read."""
        try:
            yield
        except DataError as error:
            self._skip([(str(path), str(error).removeprefix(f"{path}: "))])

    def _skip(self, files: list[tuple[str, str]]) -> None:
        self.files.skip(files)
        if self.live:
            for path, reason in files:
                say(f"skipped    {path}: {reason}")

    def _subfolder(self, name: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name


def warn_of_size(maps: int, image_size: tuple[int, int]) -> None:
    """Say how much disk raw maps will take, where it is much."""
    gigabytes = maps * math.prod(image_size) * 4 / 1e9  # float32
    if gigabytes > 1:
        log.warning("--raw writes %d maps, %.1f GB", maps, gigabytes)


def say(text: str) -> None:
    """Print a line with the time, at once, whatever letters it has."""
    encoding = sys.stdout.encoding or "utf-8"
    line = f"{datetime.now():%H:%M:%S}  {text}\n"
    sys.stdout.write(line.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
