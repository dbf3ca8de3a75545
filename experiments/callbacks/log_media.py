"""Curves, histograms, tables and pictures of a test, logged to the trackers that can show them."""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from experiments.callbacks.chosen_pictures import chosen_pictures
from experiments.callbacks.recorder import TestRecorder
from experiments.callbacks.run_folder import curve_table, test_metrics
from experiments.drawing.charts import draw_curves, draw_scores
from experiments.drawing.panels import CURVES, KINDS, histograms
from experiments.loggers import TolerantLogger
from experiments.scoring.gallery import Drawn
from experiments.tables.results import category_name, flatten
from padim import LitPaDiM

FILES = ("config.yaml", "metrics.json", "predictions.csv", "curves.csv", "pictures/overview.png")
"""Of the run folder, kept by a tracker that keeps files."""

ARTIFACT_NAME = 128
"""Characters that W&B allows."""

COLUMNS = ["kind", "rank", "path", "defect", "label", "score"]
"""Shown in a table of test images."""


class LogMedia(Callback):
    """Logs what the `TestRecorder` has kept to W&B, TensorBoard and MLflow when a test ends."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitPaDiM)
        shown = {
            WandbLogger: _to_wandb,
            TensorBoardLogger: _to_tensorboard,
            MLFlowLogger: _to_mlflow,
        }
        media = None
        for logger in trainer.loggers:
            inner = getattr(logger, "inner", logger)
            for kind, show in shown.items():
                if trainer.is_global_zero and isinstance(inner, kind):
                    media = media or Media(trainer, pl_module)
                    with TolerantLogger.guarding(logger):
                        show(inner, media)


class Media:
    """All that there is to show of a test.

    Attributes:
        metrics: by name; may be empty.
        predictions: as in predictions.csv.
        curves: as in curves.csv; may be empty.
        drawn: the test images worth a look.
        folder: of the run.
        data: name, number and digest of the images that the model was fitted on, as prepared; empty
            where they are not known.
        data_config: how they are found and prepared.
    """

    def __init__(self, trainer: Trainer, module: LitPaDiM) -> None:
        recorder = TestRecorder.of(trainer)
        self.folder = Path(trainer.default_root_dir)
        self.metrics = test_metrics(trainer)
        self.predictions = recorder.predictions(module)
        self.curves = curve_table(module.curves) if module.curves else pd.DataFrame({"curve": []})
        self.drawn: list[Drawn] = list(chosen_pictures(trainer, self.metrics))
        self.data_config: dict[str, Any] = module.hparams["data"]
        self.data: dict[str, Any] = {}
        if self.data_config and len(module.fingerprints):
            self.data = {
                "name": category_name(flatten({"data": self.data_config})),
                "images": int(module.model.statistics.count),
                "digest": sha256(module.fingerprints.numpy().tobytes()).hexdigest()[:16],
            }

    @property
    def figures(self) -> dict[str, Figure]:
        """Charts of scores and curves, by name."""
        threshold = self.metrics.get("image/f1_max_threshold")
        drawn = {"scores": draw_scores(self.predictions, threshold)}
        return drawn | ({"curves": draw_curves(self.curves)} if len(self.curves) else {})

    @property
    def rows(self) -> list[list[Any]]:
        """`COLUMNS` of each test image worth a look."""
        return [[getattr(one.choice, column) for column in COLUMNS] for one in self.drawn]


def _to_wandb(logger: WandbLogger, media: Media) -> None:
    import wandb

    shown: dict[str, Any] = {}
    for name, points in media.curves.groupby("curve"):
        group, _, end = str(name).partition("/")
        title, x, y = CURVES[end]
        table = wandb.Table(dataframe=points[["x", "y"]].rename(columns={"x": x, "y": y}))
        shown[f"curves/{name}"] = wandb.plot.line(table, x, y, title=f"{group} {title}")
    counts, edges = histograms(media.predictions)
    for kind, heights in counts.items():
        shown[f"scores/{kind}"] = wandb.Histogram(np_histogram=(heights, edges))
    if media.drawn:
        rows: list[Iterable[Any]] = [
            [*row, wandb.Image(one.picture)]
            for row, one in zip(media.rows, media.drawn, strict=True)
        ]
        shown["images"] = wandb.Table(columns=[*COLUMNS, "picture"], data=rows)
        shown["masks"] = [
            wandb.Image(
                one.image, caption=f"{one.choice.name} {one.choice.path}", masks=_masks(one)
            )
            for one in media.drawn
        ]
    run = logger.experiment
    run.log(shown)
    if media.data:
        name = re.sub(r"[^\w.-]", "-", media.data["name"], flags=re.ASCII)[:ARTIFACT_NAME]
        artifact = wandb.Artifact(name, "dataset", metadata={**media.data, **media.data_config})
        with artifact.new_file("data.json", encoding="utf-8") as file:
            json.dump(media.data, file)  # by which W&B distinguishes versions
        (run.log_artifact if run.offline else run.use_artifact)(artifact)


def _masks(one: Drawn) -> dict[str, Any]:
    """Ground truth and what reaches the threshold, as W&B lays them over an image."""
    shown = {"ground truth": one.mask, "prediction": one.found}
    return {
        name: {"mask_data": mask.astype(np.uint8), "class_labels": {1: "anomalous"}}
        for name, mask in shown.items()
        if mask is not None
    }


def _to_tensorboard(logger: TensorBoardLogger, media: Media) -> None:
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    writer, config = logger.experiment, dict(logger.hparams)
    # Lightning would also write which keys there are, and TensorBoard would take those of one job
    # for those of all; of itself it finds all keys, their types, and which of them differ.
    known = {
        key: value if isinstance(value, bool | int | float) else str(value)
        for key, value in config.items()
        if value is not None
    }
    writer._get_file_writer().add_summary(hparams_pb(known, trial_id=str(media.folder)))
    writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()))
    for name, figure in media.figures.items():
        writer.add_figure(name, figure, close=False)
    for label, kind in enumerate(KINDS):
        scores = media.predictions["score"][media.predictions["label"] == label]
        if len(scores):
            writer.add_histogram(f"scores/{kind}", scores.to_numpy())
    if media.drawn:
        rows = [" | ".join(map(str, row)) for row in (COLUMNS, ["---"] * len(COLUMNS), *media.rows)]
        writer.add_text("images", "\n".join(f"| {row} |" for row in rows))
    for one in media.drawn:
        name = f"images/{Path(one.file_name).stem}"
        writer.add_image(name, np.asarray(one.picture), dataformats="HWC")


def _to_mlflow(logger: MLFlowLogger, media: Media) -> None:
    import mlflow
    from mlflow.entities import Dataset, DatasetInput, InputTag

    client, run_id = logger.experiment, str(logger.run_id)
    for name in FILES:
        if (media.folder / name).exists():
            client.log_artifact(run_id, str(media.folder / name))
    for name, figure in media.figures.items():
        client.log_figure(run_id, figure, f"{name}.png")
    if media.drawn:
        columns = dict(zip(COLUMNS, zip(*media.rows, strict=True), strict=True))
        pictures = [mlflow.Image(one.picture) for one in media.drawn]
        client.log_table(run_id, {**columns, "picture": pictures}, "images.json")
    if media.data:
        source, profile = (json.dumps(part) for part in (media.data_config, media.data))
        data = Dataset(media.data["name"], media.data["digest"], "local", source, profile=profile)
        context = InputTag("mlflow.data.context", "training")
        client.log_inputs(run_id, [DatasetInput(data, [context])])
