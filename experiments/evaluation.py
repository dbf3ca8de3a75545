"""Testing a model: metrics, predictions and pictures into the run folder."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from datamodules import CategoryData
from experiments.pictures import Scale, draw, stack
from padim import LitPaDiM, PixelMetrics, place_in_original

log = logging.getLogger(__name__)


class TestRecorder(Callback):
    """Keeps what the test epoch saw: one entry an image, in the data's order.

    Args:
        keep_maps: whether maps and masks are kept too, for pictures of them.
    """

    __test__ = False  # its name makes pytest curious

    def __init__(self, keep_maps: bool) -> None:
        self.keep_maps = keep_maps
        self.paths: list[str] = []
        self.labels: list[int] = []
        self.defects: list[str] = []
        self.scores: list[float] = []
        self._maps: list[torch.Tensor] = []
        self._masks: list[torch.Tensor] = []
        self._windows: list[torch.Tensor] = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self.paths += batch["path"]
        self.defects += batch["defect"]
        self.labels += batch["label"].tolist()
        self.scores += outputs["scores"].tolist()
        if self.keep_maps:
            self._maps += outputs["maps"].cpu()
            self._masks += [mask.cpu() for mask in batch["mask"]]
            self._windows += batch["window"].cpu() if "window" in batch else []

    @property
    def maps(self) -> np.ndarray:
        """(N, H, W) anomaly maps, as the model gave them."""
        return torch.stack(self._maps).numpy()

    def map_and_mask(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """An image's anomaly map and ground truth at the resolution measured, (H, W) each."""
        anomaly_map, mask = self._maps[i], self._masks[i]
        if self._windows:
            size = (mask.shape[0], mask.shape[1])
            anomaly_map = place_in_original(anomaly_map, self._windows[i], size)
        return anomaly_map.numpy(), mask.numpy()


def test(
    trainer: Trainer,
    recorder: TestRecorder,
    module: LitPaDiM,
    data: CategoryData,
    folder: Path,
    config: DictConfig,
) -> dict[str, float]:
    """Evaluate on the test images and write metrics.json, predictions.csv and pictures/.

    Args:
        trainer: runs the test epoch.
        recorder: one of the trainer's callbacks.
        module: a fitted model.
        data: gives the test images.
        folder: the run folder.
        config: has `metrics`, and `pictures`, the number of images drawn.

    Returns:
        The metrics by name: "image/auroc", "pixel/pro", "cost/image_s", ...
    """
    module.pixel_metrics = PixelMetrics(config.metrics.binned)
    logged = trainer.test(module, datamodule=data, verbose=False)[0]
    metrics = {name: float(value) for name, value in logged.items()}
    if not metrics:
        log.info("The test images are all normal or all anomalous: no metric is defined.")
    elif "pixel/auroc" not in metrics:
        log.info("The masks are empty: no pixel metric is defined.")
    metrics |= costs(module, len(recorder.paths))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_predictions(recorder, folder / "predictions.csv")
    if config.pictures:
        write_pictures(recorder, data, metrics, folder / "pictures", config.pictures)
    return metrics


def costs(module: LitPaDiM, scored: int) -> dict[str, float]:
    """Seconds of the fit, if it was now, seconds to score an image, and gigabytes of statistics."""
    fit = {"cost/fit_s": sum(v for k, v in module.seconds.items() if k != "score")}
    return {
        **(fit if "statistics" in module.seconds else {}),
        "cost/image_s": module.seconds["score"] / scored,
        "cost/state_gb": module.model.statistics.nbytes / 1e9,
    }


def write_predictions(recorder: TestRecorder, path: Path) -> None:
    """One row an image: path, label (1 anomalous), defect, score."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "defect", "score"])
        rows = zip(recorder.paths, recorder.labels, recorder.defects, recorder.scores, strict=True)
        writer.writerows(rows)


def write_pictures(
    recorder: TestRecorder, data: CategoryData, metrics: dict[str, float], folder: Path, count: int
) -> None:
    """Draw the images that the scores tell best and worst, and an overview of the first of them.

    An anomalous image is the better told the higher its score, a normal one the lower.
    """
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    scale = Scale.of(recorder.maps)
    labels, scores = np.array(recorder.labels), np.array(recorder.scores)
    middle = metrics.get("image/f1_max_threshold", float(np.median(scores)))
    order = np.argsort(np.where(labels == 1, scores - middle, middle - scores))
    worst = order[: min(count, len(order)) // 2]
    best = order[::-1][: min(count, len(order)) - len(worst)]
    chosen = [("best", rank, i) for rank, i in enumerate(best, 1)]
    chosen += [("worst", rank, i) for rank, i in enumerate(worst, 1)]
    overview = []
    for kind, rank, i in tqdm(chosen, desc="Drawing", unit="img", disable=None):
        path = Path(recorder.paths[i])
        anomaly_map, mask = recorder.map_and_mask(i)
        picture = draw(
            data.picture(recorder.paths[i]).permute(1, 2, 0).numpy(),
            anomaly_map,
            scale,
            f"{kind} {rank}: {recorder.defects[i]}/{path.name}, score {scores[i]:.3g}",
            mask,
            metrics.get("pixel/f1_max_threshold"),
        )
        picture.save(folder / f"{kind}_{rank:02}_{recorder.defects[i]}_{path.stem}.png")
        if rank <= 3:
            overview.append(picture)
    stack(overview).save(folder / "overview.png")
