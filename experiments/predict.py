"""padim predict: score plain images."""

import csv
import logging
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from datamodules import ImageFiles, read_image
from experiments.pictures import Scale, draw
from experiments.trainer import open_trainer
from padim import CheckpointError, load_checkpoint

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes scores, and raw maps if asked for, batch by batch; keeps the maps to be drawn.

    Args:
        folder: the run folder.
        raw: whether each map is written as .npy, float32 (H, W).
        keep: whether the maps are kept, in float16.
    """

    def __init__(self, folder: Path, raw: bool, keep: bool) -> None:
        self.folder = folder
        self.raw = raw
        self.keep = keep
        self.names: list[str] = []
        self.paths: list[str] = []
        self.scores: list[float] = []
        self.maps: list[np.ndarray] = []
        self._file: TextIO | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.raw:
            (self.folder / "maps").mkdir(exist_ok=True)
        self._file = (self.folder / "scores.csv").open("w", newline="", encoding="utf-8")
        csv.writer(self._file).writerow(["path", "score"])

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        assert self._file is not None
        maps, scores = outputs["maps"].cpu().numpy(), outputs["scores"].tolist()
        csv.writer(self._file).writerows(zip(batch["path"], scores, strict=True))
        self._file.flush()
        for path, score, anomaly_map in zip(batch["path"], scores, maps, strict=True):
            self.names.append(f"{len(self.names):05}_{Path(path).stem}")
            self.paths.append(path)
            self.scores.append(score)
            if self.raw:
                np.save(self.folder / "maps" / f"{self.names[-1]}.npy", anomaly_map)
            if self.keep:
                self.maps.append(anomaly_map.astype(np.float16))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._file is not None:
            self._file.close()


def run(config: DictConfig) -> dict[str, float]:
    """Score every image; return the scores by path."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    module = load_checkpoint(config.checkpoint)
    prepared = module.hparams["data"]
    if not {"resize", "crop"} <= prepared.keys():
        raise CheckpointError(f"{config.checkpoint} does not say how its images were prepared")
    data = ImageFiles(
        [config.images] if isinstance(config.images, str) else list(config.images),
        prepared["resize"],
        prepared["crop"],
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )
    writer = PredictionWriter(folder, config.raw, config.pictures)
    with open_trainer(config, folder, writer) as trainer:
        trainer.predict(module, datamodule=data, return_predictions=False)
    if config.pictures:
        write_overlays(writer, data, folder / "pictures")
    ranked = sorted(zip(writer.scores, writer.paths, strict=True), reverse=True)
    for score, path in ranked[:5]:
        log.info("%8.3f  %s", score, path)
    if len(ranked) > 5:
        log.info("     ...  the five highest of %d scores", len(ranked))
    log.info("Written to %s", folder)
    return dict(zip(writer.paths, writer.scores, strict=True))


def write_overlays(writer: PredictionWriter, data: ImageFiles, folder: Path) -> None:
    """One picture an image, all on one scale of colours."""
    folder.mkdir(exist_ok=True)
    scale = Scale.of(np.stack(writer.maps).astype(np.float32))
    rows = list(zip(writer.names, writer.paths, writer.scores, writer.maps, strict=True))
    for name, path, score, anomaly_map in tqdm(rows, desc="Drawing", unit="img", disable=None):
        image = data.preprocessing.image(read_image(Path(path)), path).permute(1, 2, 0).numpy()
        title = f"{Path(path).name}, score {score:.3g}"
        draw(image, anomaly_map.astype(np.float32), scale, title).save(folder / f"{name}.png")
