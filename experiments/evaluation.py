"""Testing a model: metrics, predictions and pictures into the run folder."""

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules import LabelledData
from experiments.courses import draw_course
from experiments.pictures import draw, stack
from experiments.recorder import TestRecorder
from padim import LitPaDiM, PixelMetrics

log = logging.getLogger(__name__)


def test(
    trainer: Trainer,
    recorder: TestRecorder,
    module: LitPaDiM,
    data: LabelledData,
    folder: Path,
    config: DictConfig,
    batches: DataLoader[dict[str, Any]] | None,
) -> dict[str, float]:
    """Evaluate on the test images and write metrics.json, predictions.csv and pictures/.

    Args:
        trainer: runs the test epoch.
        recorder: one of the trainer's callbacks.
        module: a fitted model.
        data: gives the test images.
        folder: the run folder.
        config: has `metrics`, and `pictures`, the number of images drawn.
        batches: in place of the data's; None for those.

    Returns:
        The metrics by name: "image/auroc", "pixel/pro", "cost/image_s", ...
    """
    module.pixel_metrics = PixelMetrics(config.metrics.binned)
    source: Any = {"dataloaders": batches} if batches else {"datamodule": data}
    logged = trainer.test(module, **source, verbose=False)[0]
    metrics = {name: float(value) for name, value in logged.items()}
    if not metrics:
        log.info("The test images are all normal or all anomalous: no metric is defined.")
    elif "pixel/auroc" not in metrics:
        log.info("The masks are empty: no pixel metric is defined.")
    metrics |= costs(module, len(recorder.paths))
    if choice := module.model.shrinkage_choice:
        metrics |= {"shrinkage/amount": choice.amount, "shrinkage/gain": choice.gain}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_predictions(recorder, folder / "predictions.csv")
    if config.pictures:
        write_pictures(recorder, data, metrics, folder / "pictures", config.pictures)
    if recorder.videos:
        write_courses(recorder, folder / "courses")
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
    """One row an image, sorted by path: path, label (1 anomalous), defect, score."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "defect", "score"])
        rows = zip(recorder.paths, recorder.labels, recorder.defects, recorder.scores, strict=True)
        writer.writerows(sorted(rows))  # workers with a video each mix their batches


def write_courses(recorder: TestRecorder, folder: Path) -> None:
    """Draw each video's scores over its frames, all on one axis of scores."""
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame(
        {"frame": recorder.frames, "score": recorder.scores, "label": recorder.labels}
    )
    top = table["score"].max()
    for video, course in table.groupby(pd.Series(recorder.videos)):
        frames, scores, labels = course.sort_values("frame").to_numpy().T.tolist()
        path = folder / f"{video}.png"
        draw_course(frames, scores, str(video), path, labels=labels, top=top)


def write_pictures(
    recorder: TestRecorder, data: LabelledData, metrics: dict[str, float], folder: Path, count: int
) -> None:
    """Draw the images that the scores tell best and worst, and an overview of the first of them.

    An anomalous image is the better told the higher its score, a normal one the lower.
    """
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    scale = recorder.scale
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
            f"{kind} {rank}: {path.parent.name}/{path.name}, score {scores[i]:.3g}",
            mask,
            metrics.get("pixel/f1_max_threshold"),
        )
        picture.save(folder / f"{kind}_{rank:02}_{path.parent.name}_{path.stem}.png")
        if rank <= 3:
            overview.append(picture)
    stack(overview).save(folder / "overview.png")
