"""Testing a model: metrics, predictions and pictures into the run folder."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules import LabelledData
from experiments.drawing.courses import draw_course
from experiments.drawing.pictures import draw, stack
from experiments.files import cell
from experiments.scoring.gallery import Gallery, choose
from experiments.scoring.recorder import TestRecorder
from padim import Calibration, CurvePoints, LitPaDiM, PixelMetrics

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
    """Evaluate on the test images and write what a run folder holds of them.

    That is metrics.json, predictions.csv, curves.csv, pictures/ and gallery/.

    Args:
        trainer: runs the test epoch.
        recorder: one of the trainer's callbacks.
        module: a fitted model.
        data: gives the test images.
        folder: the run folder.
        config: has `metrics`; `pictures`, the number of images drawn; and `pictures_by_level`.
        batches: in place of the data's; None for those.

    Returns:
        The metrics by name: "image/auroc", "pixel/pro", "cost/image_s", ... Of several processes
        the first writes and returns them, the others nothing.
    """
    module.pixel_metrics = PixelMetrics(config.metrics.binned)
    recorder.by_level = config.pictures_by_level
    source: Any = {"dataloaders": batches} if batches else {"datamodule": data}
    logged = trainer.test(module, **source, verbose=False)[0]
    if not trainer.is_global_zero:
        return {}
    metrics = {name: float(value) for name, value in logged.items()}
    if not metrics:
        log.info("The test images are all normal or all anomalous: no metric is defined.")
    elif "pixel/auroc" not in metrics:
        log.info("No mask marks an anomalous pixel: no pixel metric is defined.")
    metrics |= costs(module, len(recorder.paths) // trainer.world_size)
    if choice := module.model.shrinkage_choice:
        metrics |= {"shrinkage/amount": choice.amount, "shrinkage/gain": choice.gain}
    verdicts = judge(recorder, module.model.calibration)
    metrics |= shares(verdicts, module.model.calibration)
    verdicts.map(cell).to_csv(folder / "predictions.csv", index=False)
    if "verdict" in verdicts:
        by_defect(verdicts).rename(index=cell).to_csv(folder / "defects.csv")
    write_curves(module.curves, folder / "curves.csv")
    if config.pictures:
        write_pictures(recorder, data, metrics, folder, config.pictures)
    if recorder.videos:
        write_courses(recorder, folder / "courses")
    write_metrics(metrics, folder)
    return metrics


def write_metrics(metrics: Mapping[str, float], folder: Path) -> None:
    """Write metrics.json, the last of what a run writes: where it is, the run is complete."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


def costs(module: LitPaDiM, scored: int) -> dict[str, float]:
    """Seconds of the fit, if it was now, seconds to score an image, and gigabytes of statistics."""
    fit = {"cost/fit_s": sum(v for k, v in module.seconds.items() if k != "score")}
    return {
        **(fit if "statistics" in module.seconds else {}),
        "cost/image_s": module.seconds["score"] / scored,
        "cost/state_gb": module.model.statistics.nbytes / 1e9,
    }


def judge(recorder: TestRecorder, calibration: Calibration | None) -> pd.DataFrame:
    """The test images sorted by path: path, label (1 anomalous), defect, score.

    Also p_value where the model is calibrated, and verdict, 1 anomalous, where it has a threshold.
    """
    columns = {
        "path": recorder.paths,
        "label": recorder.labels,
        "defect": recorder.defects,
        "score": recorder.scores,
    }
    table = pd.DataFrame(columns).sort_values("path")  # workers with a video each mix batches
    if calibration and calibration.rate:
        p_values = calibration.p_value(torch.tensor(table["score"].to_numpy(), dtype=torch.float32))
        table["p_value"] = p_values.numpy()
    if calibration and calibration.thresholds:
        table["verdict"] = (table["score"] >= calibration.thresholds[0]).astype(int)
    return table


def shares(verdicts: pd.DataFrame, calibration: Calibration | None) -> dict[str, float]:
    """The threshold and, of the images judged by it, the false alarms and the anomalies found."""
    if calibration is None or calibration.thresholds is None:
        return {}
    image, pixel = calibration.thresholds
    promised = {} if calibration.fixed else {"threshold/false_alarm_rate": calibration.rate}
    found = verdicts.groupby("label")["verdict"].mean()
    names = {0: "verdict/false_alarm_rate", 1: "verdict/recall"}
    return {
        **promised,
        "threshold/image": image,
        "threshold/pixel": pixel,
        **{name: float(found[label]) for label, name in names.items() if label in found},
    }


def by_defect(verdicts: pd.DataFrame) -> pd.DataFrame:
    """For each kind of image how many there are, and the share called anomalous."""
    return verdicts.groupby("defect").agg(
        images=("verdict", "count"), called_anomalous=("verdict", "mean")
    )


def write_curves(curves: Mapping[str, CurvePoints], path: Path) -> None:
    """One row a point: curve (such as "pixel/roc"), threshold, x, y; no file if there is none."""
    parts = {
        name: pd.DataFrame({k: v.numpy() for k, v in points._asdict().items()})
        for name, points in curves.items()
    }
    if parts:
        table = pd.concat(parts, names=["curve", None]).reset_index("curve")
        table.rename(columns={"thresholds": "threshold"}).to_csv(
            path, index=False, float_format="%.7g"
        )


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
    """Draw the images that the scores tell best, worst and most confused (see `choose`).

    They go into pictures/, with an overview of the first of them, and into gallery/, for a report.
    """
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for stale in pictures.glob("*.png"):
        stale.unlink()
    scale = recorder.scale
    gallery = Gallery(folder / "gallery", scale, recorder.top)
    chosen = choose(recorder, metrics.get("image/f1_max_threshold"), count)
    overview = []
    for choice in tqdm(chosen, desc="Drawing", unit="img", disable=None):
        path = Path(choice.path)
        image = data.picture(choice.path).permute(1, 2, 0).numpy()
        anomaly_map, mask = recorder.map_and_mask(choice.index)
        levels = recorder.levels(choice.index)
        picture = draw(
            image,
            anomaly_map,
            scale,
            f"{choice.kind} {choice.rank}: {path.parent.name}/{path.name},"
            f" score {choice.score:.3g}",
            mask,
            metrics.get("pixel/f1_max_threshold"),
            levels,
        )
        picture.save(
            pictures / f"{choice.name}_{path.parent.name}_{path.stem}.png", compress_level=1
        )
        gallery.add(choice, image, anomaly_map, mask, levels)
        if choice.rank <= 3:
            overview.append(picture)
    gallery.close()
    stack(overview).save(pictures / "overview.png", compress_level=1)
