"""padim evaluate: measure fitted models on test images."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules import LabelledData
from experiments.running.batch import run_batch, show_results
from experiments.running.processes import on_all_devices
from experiments.running.trainer import open_trainer, prepare
from experiments.scoring.evaluation import test
from experiments.scoring.recorder import TestRecorder
from experiments.tables.results import Result
from experiments.trust import trusted_data
from padim import CheckpointError, LitPaDiM, load_checkpoint
from padim.distributed import in_step

log = logging.getLogger(__name__)


@on_all_devices
def run(config: DictConfig) -> dict[str, float]:
    """Load, evaluate; return the metrics, or the means over the categories of one variant."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    given = [config.checkpoints] if isinstance(config.checkpoints, str) else config.checkpoints
    files = [file for path in given for file in find_checkpoints(Path(path))]
    if len(files) == 1:
        metrics = show_results([evaluate(config, files[0], folder)], folder, config.table)
    else:
        runs = {n: partial(evaluate, config, f) for n, f in _names(files).items()}
        metrics = run_batch(runs, folder, config.table)
    log.info("Written to %s", folder)
    return metrics


@in_step()
def evaluate(config: DictConfig, checkpoint: Path, folder: Path) -> Result:
    """One model: its metrics, predictions and pictures into a folder."""
    config = config.copy()
    config.checkpoints = str(checkpoint)
    module = load_checkpoint(checkpoint, scoring_only=True)
    overrides = list(HydraConfig.get().overrides.task)
    config.data = data_config(module.hparams["data"], config.data, overrides)
    described: Any = OmegaConf.to_container(config, resolve=True)
    described |= module.hparams["model"]
    whole = OmegaConf.create(described)
    OmegaConf.save(whole, folder / "config.yaml")
    data = open_data(config.data, overrides)
    data.setup("test")
    require_fitted_size(module, data)
    if not data.has_test:
        raise ValueError(f"{data.folder} has no test images")
    recorder = TestRecorder(config.pictures)
    with open_trainer(whole, folder, recorder) as trainer:
        metrics = test(trainer, recorder, module, data, folder, config, None)
    run = _home(checkpoint)
    described["run"] = run.parent if run.name == data.name else run
    return Result.of(data.name, described, metrics)


def require_fitted_size(module: LitPaDiM, data: LabelledData) -> None:
    """Raise a `ValueError` unless images have the size that the model was fitted for."""
    if data.image_size != module.model.backbone.image_size:
        raise ValueError(
            f"the model was fitted on images of {module.model.backbone.image_size},"
            f" data.resize and data.crop give {data.image_size}"
        )


def find_checkpoints(path: Path) -> list[Path]:
    """The file itself, a run folder's `model.ckpt`, or those of all runs below a folder.

    Raises:
        CheckpointError: there is none.
    """
    if not path.is_dir() or (path / "model.ckpt").exists():
        return [path]
    found = sorted(path.rglob("model.ckpt"))
    if not found:
        raise CheckpointError(f"there is no model.ckpt in {path}, nor below it")
    return found


def _names(files: list[Path]) -> dict[str, Path]:
    """Each checkpoint by the part of its path that tells it from the others."""
    homes = [_home(file).absolute() for file in files]
    common = os.path.commonpath([home.parent for home in homes])
    return {os.path.relpath(h, common): file for h, file in zip(homes, files, strict=True)}


def _home(checkpoint: Path) -> Path:
    """What a checkpoint is known by: its run folder, or its own name without the suffix."""
    return checkpoint.parent if checkpoint.name == "model.ckpt" else checkpoint.with_suffix("")


def data_config(saved: dict[str, Any], composed: DictConfig, overrides: list[str]) -> DictConfig:
    """The data of the fit, except for the keys overridden now; `data=NAME` replaces them all.

    Raises:
        CheckpointError: the saved configuration is not to be trusted; see `trusted_data`.
    """
    keys = [
        override.key_or_group for override in OverridesParser.create().parse_overrides(overrides)
    ]
    if "data" in keys or not saved:
        return composed
    inner = [key.removeprefix("data.") for key in keys if key.startswith("data.")]
    merged = OmegaConf.create(trusted_data(saved, inner))
    for key in inner:
        OmegaConf.update(merged, key, OmegaConf.select(composed, key))
    return merged


def open_data(config: DictConfig, overrides: list[str]) -> LabelledData:
    """The data module, whose data are fetched or made only where the command line asks for it."""
    data: LabelledData = instantiate(config)
    if any(override.lstrip("+").startswith(("data=", "data.download=")) for override in overrides):
        prepare(data)
    return data
