"""The part of a run folder that is of a test: metrics, predictions, curves and pictures."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from pytorch_lightning import Callback, LightningModule, Trainer
from scipy.stats import mannwhitneyu
from tqdm import tqdm

from experiments.callbacks.chosen_pictures import chosen_pictures
from experiments.callbacks.recorder import TestRecorder
from experiments.drawing.anomaly_curve import draw_anomaly_curve
from experiments.drawing.pictures import stack
from experiments.files import short, write_csv, write_text
from experiments.scoring.gallery import Gallery
from padim import CurvePoints, LitPaDiM

METRICS = ("image/", "pixel/", "cost/", "shrinkage/", "threshold/", "verdict/", "select/")
"""Beginnings of the names of the metrics that a test logs."""

log = logging.getLogger(__name__)


class RunFolder(Callback):
    """Writes into the trainer's root folder when a test ends.

    That is metrics.json, predictions.csv, defects.csv, curves.csv, courses/, pictures/ and
    gallery/, of what the `TestRecorder` has kept.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, LitPaDiM)
        folder, recorder = Path(trainer.default_root_dir), TestRecorder.of(trainer)
        metrics = test_metrics(trainer)
        if "image/auroc" not in metrics:
            log.info("The test images are all normal or all anomalous: no metric is defined.")
        elif "pixel/auroc" not in metrics:
            log.info("No mask marks an anomalous pixel: no pixel metric is defined.")
        write_metrics(metrics, folder)
        predictions = recorder.predictions(pl_module)
        write_csv(predictions, folder / "predictions.csv")
        write_csv(by_defect(predictions), folder / "defects.csv")
        if pl_module.curves:
            curves = curve_table(pl_module.curves).to_csv(index=False, float_format="%.7g")
            write_text(folder / "curves.csv", curves)
        try:  # no picture is worth the run
            if recorder.pictures:
                write_pictures(trainer, metrics, folder)
            if "video" in recorder.columns:
                write_anomaly_curves(recorder.table, folder / "courses")
        except Exception as error:
            log.warning("Pictures are missing: %s", error)


def test_metrics(trainer: Trainer) -> dict[str, float]:
    """The metrics of the test that the trainer has just run, by name."""
    logged = trainer.callback_metrics.items()
    return {name: float(value) for name, value in logged if name.startswith(METRICS)}


def write_metrics(metrics: Mapping[str, float], folder: Path) -> None:
    """Write metrics.json: where it is, the run is complete."""
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def by_defect(predictions: pd.DataFrame) -> pd.DataFrame:
    """For each kind of image how many there are, and how well they are found.

    That is, where they are defined, the share called anomalous, the image AUROC against all normal
    images and the mean AUPIMO.
    """
    kinds = predictions.groupby("defect")
    named = {"called_anomalous": "verdict", "aupimo": "aupimo"}
    means = {name: kinds[key].mean() for name, key in named.items() if key in predictions}
    normal = predictions.loc[predictions["label"] == 0, "score"]

    def auroc(scores: pd.Series) -> float:
        """The share of pairs in the right order, of which U is the number."""
        return float(mannwhitneyu(scores, normal).statistic / (len(scores) * len(normal)))

    if len(normal):
        anomalous = predictions[predictions["label"] == 1]
        means["auroc"] = anomalous.groupby("defect")["score"].agg(auroc)
    return pd.DataFrame({"images": kinds.size(), **means}).reset_index()


def curve_table(curves: Mapping[str, CurvePoints]) -> pd.DataFrame:
    """A row for each point: curve (such as "pixel/roc"), threshold, x, y."""
    parts = {
        name: pd.DataFrame({key: value.numpy() for key, value in points._asdict().items()})
        for name, points in curves.items()
    }
    table = pd.concat(parts, names=["curve", None]).reset_index("curve")
    return table.rename(columns={"thresholds": "threshold"})


def write_pictures(trainer: Trainer, metrics: Mapping[str, float], folder: Path) -> None:
    """Draw the images worth a look into pictures/, with an overview, and gallery/ for a report."""
    recorder, pictures = TestRecorder.of(trainer), folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for stale in pictures.glob("*.png"):
        stale.unlink()
    gallery = Gallery(folder / "gallery", recorder.scale, recorder.top)
    overview = []
    drawn = chosen_pictures(trainer, metrics)
    for one in tqdm(drawn, desc="Drawing", unit="img", disable=None, leave=False):
        one.picture.save(pictures / one.file_name, compress_level=1)
        gallery.add(one)
        if one.choice.rank <= 3:
            overview.append(one.picture)
    gallery.close()
    stack(overview).save(pictures / "overview.png", compress_level=1)


def write_anomaly_curves(table: pd.DataFrame, folder: Path) -> None:
    """Draw each video's scores over its frames, all on one axis of scores."""
    folder.mkdir(exist_ok=True)
    for video, frames in table.sort_values("frame").groupby("video"):
        at, scores, labels = frames[["frame", "score", "label"]].to_numpy().T.tolist()
        path, top = folder / f"{short(str(video))}.png", table["score"].max()
        draw_anomaly_curve(at, scores, str(video), path, labels=labels, top=top)
