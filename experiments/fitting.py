"""A run of one category: the fit, the model file, and what the test images give."""

import json
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything

from experiments.app import TERMINATED, on_sigterm
from experiments.build import (
    category_of,
    finished_before,
    has_test,
    image_size,
    measure,
    new_data,
    new_model,
    new_trainer,
)
from experiments.callbacks.recorder import Pool
from experiments.callbacks.resume_state import add_counted
from experiments.callbacks.run_folder import write_metrics
from experiments.drawing.shrinkage import write_shrinkage
from experiments.environment import describe_environment
from experiments.files import write_text
from experiments.folders import clear
from experiments.loggers import open_loggers
from experiments.model_files import portable, write_model
from experiments.selection import selection
from experiments.tables.results import Result
from padim import LitPaDiM

log = logging.getLogger(__name__)


def fit(
    config: DictConfig,
    folder: Path,
    found: Mapping[str, Result | Exception],
    category: str = "",
    pool: Pool | None = None,
) -> Result:
    """One category: its model file, metrics, predictions and pictures into a folder."""
    if isinstance(done := found.get(category), Exception):
        raise done
    if done or (done := None if pool else finished_before(config, folder)):
        return done
    seed_everything(config.seed, verbose=False)
    data = new_data(config.data, prepare=not config.resume)  # a stopped run has its data
    backbone = instantiate(config.backbone, image_size=image_size(data))
    model = new_model(config, backbone, getattr(data, "ignored", None))
    module = LitPaDiM(model, data=portable(config.data, data), accumulate=bool(config.resume))
    if config.select:
        module.beside = selection(config, backbone, data)
    if config.resume:
        # Of a user's own data module a stopped fit has no state: it is counted from the beginning.
        data.counted = add_counted(Path(config.resume, category), module)  # type: ignore[attr-defined]
    with open_loggers(config, folder) as loggers:
        callbacks = [instantiate(settings) for settings in config.callbacks.values()]
        trainer = new_trainer(config, folder, callbacks, loggers)
        if config.overwrite or config.resume:
            clear(folder)
        with on_sigterm(signal.SIG_DFL):  # which Lightning then waits for between two batches
            trainer.fit(module, datamodule=data)
        if trainer.received_sigterm:  # after the last batch, so the model is whole
            if config.save_model:
                write_model(module, trainer, folder / "model.ckpt")
            sys.exit(TERMINATED)
        log_fit(module, trainer.world_size)
        log_choices(module)
        return finish(config, folder, trainer, module, data, pool)


def finish(
    config: DictConfig,
    folder: Path,
    trainer: Trainer,
    module: LitPaDiM,
    data: Any,
    pool: Pool | None = None,
) -> Result:
    """Save a fitted model, evaluate it and write what is found into its run folder."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    environment = describe_environment(trainer.strategy.root_device.type)
    write_text(folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    if config.save_model:
        write_model(module, trainer, folder / "model.ckpt")
        if config.threshold and not module.model.calibration:
            log.info(
                "No threshold: frames of a video are near copies of each other, so leaving one out"
                " promises nothing. `padim calibrate %s FRAMES` sets one by frames of other videos",
                folder,
            )
    else:
        (folder / "model.ckpt").unlink(missing_ok=True)  # of a run before, which is overwritten
    if (choice := module.model.shrinkage_choice) and choice.curve:
        write_shrinkage(choice, folder)
    metrics: dict[str, float] = {}
    if has_test(data):
        metrics = measure(config, trainer, module, data, pool)
    else:
        log.info("There are no test images: the model is fitted and not evaluated.")
        metrics = module.beside
        for logger in trainer.loggers:
            logger.log_metrics(metrics)
        write_metrics(metrics, folder)
    return Result.of(category_of(data), config, metrics)


def log_fit(module: LitPaDiM, processes: int = 1) -> None:
    """Log the time of the fit by phase, of several processes in the first, and the state's size."""
    seconds = module.seconds
    n = int(module.model.statistics.count)
    outside = seconds["decode"] + seconds["backbone"]
    inside = seconds["statistics"] + seconds["covariances"]
    log.info(
        "Fitted on %d images%s in %.1f s: %.2f s waiting for images, %.2f backbone,"
        " %.2f statistics, %.2f covariances, %.2f threshold (%.1f %% over images and backbone);"
        " state %.1f MB",
        *(n, f" by {processes} processes" * (processes > 1), outside + inside),
        *(seconds["decode"], seconds["backbone"], seconds["statistics"]),
        *(seconds["covariances"], seconds["threshold"], 100 * inside / outside),
        module.model.statistics.nbytes / 1e6,
    )


def log_choices(module: LitPaDiM) -> None:
    """Log what was chosen by the images of the fit: a threshold, the shrinkage coefficient."""
    if (calibration := module.model.calibration) and calibration.rate:
        log.info(
            "Threshold %.4g for a false-alarm rate of %.2g: %d images left out in turn",
            *(calibration.threshold(calibration.rate), calibration.rate, len(calibration.scores)),
        )
    choice = module.model.shrinkage_choice
    if choice and not choice.curve:
        log.info("Shrinkage 1, as with fewer than 3 images none can be left out to choose it")
    elif choice:
        log.info(
            "Shrinkage %.3f has the least leave-one-out NLL, %.1f nats a patch below none",
            *(choice.coefficient, choice.gain),
        )
