"""What a run folder holds, in the terms of each tracker."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from experiments.drawing.charts import CURVES, KINDS, draw_curves, draw_scores, histograms

FILES = ("config.yaml", "metrics.json", "predictions.csv", "curves.csv", "pictures/overview.png")
"""Of the run folder, kept by a tracker that keeps files."""

IMAGE_COLUMNS = ["kind", "rank", "path", "defect", "label", "score"]
"""Of gallery.json, shown in a table of test images."""


class RunFolder:
    """What a run has found, read from its folder.

    Attributes:
        metrics: by name; may be empty.
        predictions: as in predictions.csv; None if nothing was tested.
        curves: as in curves.csv; may be empty.
        images: `IMAGE_COLUMNS` of each test image worth a look.
        pictures: a file for each of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        metrics, curves = folder / "metrics.json", folder / "curves.csv"
        predictions, gallery = folder / "predictions.csv", folder / "gallery" / "gallery.json"
        columns = ["curve", "threshold", "x", "y"]
        self.metrics: dict[str, float] = json.loads(metrics.read_text()) if metrics.exists() else {}
        self.predictions = pd.read_csv(predictions) if predictions.exists() else None
        self.curves = pd.read_csv(curves) if curves.exists() else pd.DataFrame(columns=columns)
        chosen = json.loads(gallery.read_text())["images"] if gallery.exists() else []
        self.images = [[image[column] for column in IMAGE_COLUMNS] for image in chosen]
        pictures = folder / "pictures"
        self.pictures = [next(pictures.glob(f"{image['name']}_*.png")) for image in chosen]

    @property
    def figures(self) -> dict[str, Figure]:
        """Pictures of scores and curves, by name."""
        drawn = {}
        if self.predictions is not None:
            threshold = self.metrics.get("image/f1_max_threshold")
            drawn["scores"] = draw_scores(self.predictions, threshold)
        if len(self.curves):
            drawn["curves"] = draw_curves(self.curves)
        return drawn


def tell(logger: Logger, config: dict[str, Any], folder: Path) -> None:
    """Metrics, and to trackers that can show them curves, histograms and test images.

    Args:
        logger: of any kind.
        config: the configuration, flat.
        folder: of the run.
    """
    run = RunFolder(folder)
    if isinstance(logger, TensorBoardLogger):
        _tell_tensorboard(logger, config, run)
        return
    if run.metrics:
        logger.log_metrics(run.metrics)
    if isinstance(logger, WandbLogger):
        _tell_wandb(logger, run)
    elif isinstance(logger, MLFlowLogger):
        _tell_mlflow(logger, run)


def upload(logger: Logger, checkpoint: Path) -> None:
    """Hand over the model file, if there is one."""
    if not checkpoint.exists():
        return
    if isinstance(logger, WandbLogger):
        import wandb

        artifact = wandb.Artifact(f"padim-{logger.experiment.id}", "model")
        artifact.add_file(str(checkpoint))
        logger.experiment.log_artifact(artifact)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_artifact(logger.run_id, str(checkpoint))


def _tell_wandb(logger: WandbLogger, run: RunFolder) -> None:
    import wandb

    shown: dict[str, Any] = {}
    for name, points in run.curves.groupby("curve"):
        group, _, end = str(name).partition("/")
        title, x, y = CURVES[end]
        table = wandb.Table(dataframe=points[["x", "y"]].rename(columns={"x": x, "y": y}))
        shown[f"curves/{name}"] = wandb.plot.line(table, x, y, title=f"{group} {title}")
    if run.predictions is not None:
        counts, edges = histograms(run.predictions)
        for kind, heights in counts.items():
            shown[f"scores/{kind}"] = wandb.Histogram(np_histogram=(heights, edges))
    if run.pictures:
        pictures = [wandb.Image(str(path)) for path in run.pictures]
        rows: list[Iterable[Any]] = [
            [*row, picture] for row, picture in zip(run.images, pictures, strict=True)
        ]
        shown["images"] = wandb.Table(columns=[*IMAGE_COLUMNS, "picture"], data=rows)
    logger.experiment.log(shown)


def _tell_tensorboard(logger: TensorBoardLogger, config: dict[str, Any], run: RunFolder) -> None:
    logger.log_hyperparams(config, run.metrics)  # the metrics as scalars, too
    writer = logger.experiment
    writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))
    for name, figure in run.figures.items():
        writer.add_figure(name, figure, close=False)
    if run.predictions is not None:
        for label, kind in enumerate(KINDS):
            scores = run.predictions["score"][run.predictions["label"] == label]
            if len(scores):
                writer.add_histogram(f"scores/{kind}", scores.to_numpy())
    if run.pictures:
        table = pd.DataFrame(run.images, columns=IMAGE_COLUMNS)
        writer.add_text("images", table.to_markdown(index=False))
    for path in run.pictures:
        writer.add_image(f"images/{path.stem}", np.asarray(Image.open(path)), dataformats="HWC")


def _tell_mlflow(logger: MLFlowLogger, run: RunFolder) -> None:
    import mlflow

    client, run_id = logger.experiment, str(logger.run_id)
    for name in FILES:
        if (run.folder / name).exists():
            client.log_artifact(run_id, str(run.folder / name))
    for name, figure in run.figures.items():
        client.log_figure(run_id, figure, f"{name}.png")
    if run.pictures:
        pictures = [mlflow.Image(Image.open(path)) for path in run.pictures]
        columns = dict(zip(IMAGE_COLUMNS, zip(*run.images, strict=True), strict=True))
        client.log_table(run_id, {**columns, "picture": pictures}, "images.json")
