"""padim predict: score plain images and videos."""

import csv
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from datamodules import (
    ImageError,
    ImageFiles,
    VideoFrames,
    find_inputs,
    frame_rate,
    is_video,
    read_image,
)
from experiments.annotate import AnnotatedVideo
from experiments.courses import draw_course
from experiments.pictures import Scale, draw
from experiments.trainer import open_trainer
from padim import CheckpointError, LitPaDiM, load_checkpoint

log = logging.getLogger(__name__)

Receiver = Callable[[list[float], np.ndarray], None]
"""Takes the scores (B) and maps (B, H, W) of a batch, in the order of prediction."""


def run(config: DictConfig) -> dict[str, float]:
    """Score every image and every frame of a video; return the scores by path.

    Raises:
        DataError: a file cannot be read. Of a video damaged in the middle, and of all other
            videos, what can be read is scored before.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    module = load_checkpoint(config.checkpoint)
    prepared = module.hparams["data"]
    if not {"resize", "crop"} <= prepared.keys():
        raise CheckpointError(f"{config.checkpoint} does not say how its images were prepared")
    options = {
        "resize": prepared["resize"],
        "crop": prepared["crop"],
        "batch_size": config.batch_size,
        "num_workers": config.num_workers,
    }
    given = [config.images] if isinstance(config.images, str) else list(config.images)
    paths = find_inputs(given, videos=True)
    images = ImageFiles([path for path in paths if not is_video(path)], **options)
    videos = [VideoFrames(path, config.stride, **options) for path in paths if is_video(path)]
    for video in videos:
        video.setup()  # one that cannot be opened is told of before anything is scored
    still = len(paths) - len(videos)
    if config.raw:
        warn_of_size(still + sum(len(video.clip.wanted) for video in videos), images.image_size)
    with (folder / "scores.csv").open("w", buffering=1, newline="", encoding="utf-8") as file:
        predictor = Predictor(config, folder, module, file)
        csv.writer(file).writerow(["path", "score"])
        if still:
            predictor.images(images)
        unread = []
        for number, video in enumerate(videos, still):
            scored = predictor.video(video, number)
            if scored < len(video.clip.wanted):
                unread.append(f"{video.path}: frame {video.clip.wanted[scored]} cannot be read")
    show_highest(predictor.scores)
    log.info("Written to %s", folder)
    if unread:  # told last, so that one video does not keep the others from being scored
        raise ImageError("; ".join(unread))
    return predictor.scores


@dataclass(frozen=True)
class Predictor:
    """Scores images and videos into one run folder.

    Args:
        config: of the run.
        folder: of the run.
        module: a fitted model.
        file: takes a line a score.
        scores: by path, so far.
    """

    config: DictConfig
    folder: Path
    module: LitPaDiM
    file: TextIO
    scores: dict[str, float] = field(default_factory=dict)

    def images(self, data: ImageFiles) -> None:
        """Score images; draw each, when all are scored."""
        names = [f"{number:05}_{path.stem}" for number, path in enumerate(data.paths)]
        maps: list[np.ndarray] = []

        def keep(_: list[float], batch: np.ndarray) -> None:
            maps.extend(batch.astype(np.float16))

        self._predict(data, names, keep if self.config.pictures else None)
        if self.config.pictures:
            rows = zip(names, data.paths, maps, strict=True)
            self._write_overlays(data, list(rows), self._subfolder("pictures"))

    def video(self, data: VideoFrames, number: int) -> int:
        """Score the frames of a video and draw them as they come; return how many there were."""
        name = f"{number:05}_{data.path.stem}"
        names = (f"{name}_{frame:06}" for frame in data.clip.wanted)
        log.info("%s: %d frames", data.path, len(data.clip.wanted))
        course: list[float] = []
        if not self.config.pictures:
            self._predict(data, names, lambda scores, _: course.extend(scores))
            return len(course)
        rate = frame_rate(data.path) / data.stride
        annotated = self._subfolder("videos") / f"{name}.mp4"
        video = AnnotatedVideo(annotated, data.clip, data.preprocessing, rate)

        def receive(scores: list[float], maps: np.ndarray) -> None:
            course.extend(scores)
            video.add(scores, maps)

        try:
            self._predict(data, names, receive)
        finally:  # what was scored before an error can be looked at
            video.close()
            if course:
                picture = self._subfolder("pictures") / f"{name}_course.png"
                seconds = [i / float(rate) for i in range(len(course))]
                draw_course(seconds, course, data.path.name, picture, "seconds")
        return len(course)

    def _predict(
        self,
        data: ImageFiles | VideoFrames,
        names: Iterable[str],
        receive: Receiver | None = None,
    ) -> None:
        maps = self._subfolder("maps") if self.config.raw else None
        writer = PredictionWriter(self.file, self.scores, names, maps, receive)
        with open_trainer(self.config, self.folder, writer) as trainer:
            trainer.predict(self.module, datamodule=data, return_predictions=False)

    def _write_overlays(
        self, data: ImageFiles, rows: list[tuple[str, Path, np.ndarray]], folder: Path
    ) -> None:
        """One picture an image, all on one scale of colours."""
        scale = Scale.of(np.stack([anomaly_map for *_, anomaly_map in rows]).astype(np.float32))
        for name, path, anomaly_map in tqdm(rows, desc="Drawing", unit="img", disable=None):
            image = data.preprocessing.image(read_image(path), path).permute(1, 2, 0).numpy()
            title = f"{path.name}, score {self.scores[str(path)]:.3g}"
            draw(image, anomaly_map.astype(np.float32), scale, title).save(folder / f"{name}.png")

    def _subfolder(self, name: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        return self.folder / name


class PredictionWriter(Callback):
    """Writes scores, and raw maps if asked for, batch by batch, and hands both on.

    Args:
        file: takes a line "path,score" an image.
        scores: takes the scores by path.
        names: of the files of raw maps, in the order of prediction.
        raw: folder of the raw maps, .npy, float32 (H, W); none are written where it is None.
        receive: is handed scores and maps.
    """

    def __init__(
        self,
        file: TextIO,
        scores: dict[str, float],
        names: Iterable[str],
        raw: Path | None,
        receive: Receiver | None,
    ) -> None:
        self.table = csv.writer(file)
        self.scores = scores
        self.names = iter(names)
        self.raw = raw
        self.receive = receive

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        maps, scores = outputs["maps"].cpu().numpy(), outputs["scores"].tolist()
        rows = list(zip(batch["path"], scores, strict=True))
        self.table.writerows(rows)
        self.scores.update(rows)
        if self.raw:
            for anomaly_map, name in zip(maps, self.names, strict=False):
                np.save(self.raw / f"{name}.npy", anomaly_map)
        if self.receive:
            self.receive(scores, maps)


def warn_of_size(maps: int, image_size: tuple[int, int]) -> None:
    """Say how much disk raw maps will take, where it is much."""
    gigabytes = maps * math.prod(image_size) * 4 / 1e9  # float32
    if gigabytes > 1:
        log.warning("--raw writes %d maps, %.1f GB", maps, gigabytes)


def show_highest(scores: dict[str, float]) -> None:
    """Print the five highest scores and their paths."""
    ranked = sorted(((score, path) for path, score in scores.items()), reverse=True)
    for score, path in ranked[:5]:
        log.info("%8.3f  %s", score, path)
    if len(ranked) > 5:
        log.info("     ...  the five highest of %d scores", len(ranked))
