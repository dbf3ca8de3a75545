"""The table and the plots of a sweep on its trackers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from experiments.loggers import TolerantLogger, open_loggers
from experiments.tables.results import CATEGORY_KEYS, POOLED, Result
from experiments.tables.variants import what_varies

FILES = ("table.md", "table.csv", "table.tex", "sweep.csv", "results.csv")
"""Of a sweep's folder, kept by a tracker that keeps files."""

MOST = 10_000
"""Runs of MLflow that are looked for."""


def upload_sweep(config: DictConfig, results: Sequence[Result], folder: Path) -> None:
    """Show what a sweep has written in a run of its own, on each tracker of its jobs.

    Args:
        config: of the multirun, with Hydra's own part.
        results: read from below the folder; at least one.
        folder: of the sweep.
    """
    described = _described(results)
    described.logger = config.get("logger") and OmegaConf.to_container(config.logger, resolve=True)
    with open_loggers(described, folder, kind="sweep") as loggers:
        for logger in loggers:
            with TolerantLogger.guarding(logger):
                match logger.inner:
                    case WandbLogger():
                        _to_wandb(logger.inner, folder)
                    case TensorBoardLogger():
                        _to_tensorboard(logger.inner, folder)
                    case MLFlowLogger():
                        _to_mlflow(logger.inner, folder)


def _described(results: Sequence[Result]) -> Any:
    """The configuration of a job, where all values in place of a setting that varies."""
    assert results[0].folder
    described = OmegaConf.load(results[0].folder / "config.yaml")
    categories = [r.category for r in results if r.category != POOLED]
    values = {k: categories for k in CATEGORY_KEYS if OmegaConf.select(described, k) is not None}
    for key, some in (values | dict(what_varies(results, seeds=True))).items():
        OmegaConf.update(described, str(key), ",".join(dict.fromkeys(filter(None, some))))
    return described


def _plots(folder: Path) -> list[Path]:
    return sorted((folder / "pictures").glob("*.png"))


def _to_wandb(logger: WandbLogger, folder: Path) -> None:
    import wandb

    shown: dict[str, Any] = {
        name: wandb.Table(dataframe=pd.read_csv(path), allow_mixed_types=True)
        for name in ("table", "sweep")
        if (path := folder / f"{name}.csv").exists()
    }
    for path in _plots(folder):
        shown[f"plots/{path.stem.replace('.', '_')}"] = wandb.Image(str(path))
    logger.experiment.log(shown)


def _to_tensorboard(logger: TensorBoardLogger, folder: Path) -> None:
    if (folder / "table.md").exists():
        logger.experiment.add_text("table", (folder / "table.md").read_text(encoding="utf-8"))
    for path in _plots(folder):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        logger.experiment.add_image(f"plots/{path.stem}", pixels, dataformats="HWC")


def _to_mlflow(logger: MLFlowLogger, folder: Path) -> None:
    """Keep the files, and make the sweep the parent of its jobs' runs that have none."""
    client, run_id = logger.experiment, str(logger.run_id)
    for path in [*(folder / name for name in FILES), folder / "pictures"]:
        if path.exists():
            client.log_artifact(run_id, str(path))
    below = f'tags.folder LIKE "{folder.absolute()}/%"'
    for job in client.search_runs([str(logger.experiment_id)], below, max_results=MOST):
        if "mlflow.parentRunId" not in job.data.tags:
            client.set_tag(job.info.run_id, "mlflow.parentRunId", run_id)
