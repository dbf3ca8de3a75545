"""padim export: write a model as a file that runs without this project."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from datamodules import PREPARATION, Preprocessing
from datamodules.images import PADDING
from experiments.predict import preparation
from experiments.scoring.verdicts import Verdicts
from padim import Deployment, DeploymentError, load_checkpoint
from padim.deployment import SUFFIXES, difference, export, require

TOLERANCE = 1e-3
"""Largest difference from PyTorch that passes; 1e-6 is usual."""

HALF_TOLERANCE = 1e-2
"""The same where whitening is stored in 16 bits; 1e-4 is usual."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Write a file, and compare what it gives with what PyTorch gives.

    Raises:
        ValueError: a key is wrong.
        DeploymentError: a package is missing, or the file does not give what the model gives; it
            is removed then.
    """
    require(config.format)
    checkpoint = Path(config.checkpoint)
    if checkpoint.is_dir():
        checkpoint /= "model.ckpt"
    path = Path(config.out or checkpoint.with_suffix(SUFFIXES[config.format]))
    module = load_checkpoint(checkpoint, scoring_only=True)
    limit = config.threshold
    verdicts = Verdicts.of(module.model, limit.false_alarm_rate, limit.score)
    log.info("%s", verdicts)
    prepared = Preprocessing(**preparation(module, str(checkpoint)))
    metadata = {
        "preparation": {key: getattr(prepared, key) for key in PREPARATION} | {"padding": PADDING},
        "false_alarm_rate": verdicts.rate,
        "threshold_source": verdicts.source,
        "pixel_threshold": verdicts.pixel_threshold,
    }
    exact = Deployment(module.model, verdicts.threshold, pixels=config.pixels)
    stored = Deployment(module.model, verdicts.threshold, config.half, config.pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = export(stored, path, config.format, metadata)
    error = difference(path, exact)
    if not error <= (HALF_TOLERANCE if config.half else TOLERANCE):
        for file in files:
            file.unlink()
        raise DeploymentError(
            f"{path} differs from PyTorch by {error:.2g} of the mean, so it is removed:"
            f" try {'half=false' if config.half else 'another format'}"
        )
    size = sum(file.stat().st_size for file in files) / 1e6
    log.info("On random images it differs from PyTorch by at most %.1g of the mean", error)
    log.info("Written to %s (%.1f MB)", " and ".join(map(str, files)), size)
    return {"megabytes": size, "difference": error}
