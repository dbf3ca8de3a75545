"""padim export: write a model as a file that runs without this project."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from datamodules import PADDING
from experiments.app import launch
from experiments.files import replacing, require_writable
from experiments.model_files import fitted_preprocessing
from experiments.scoring.verdicts import Verdicts
from padim import Deployment, DeploymentError, load_checkpoint
from padim.deployment import SUFFIXES, difference, export, require

TOLERANCE = 1e-3
"""Largest difference from PyTorch that passes; 1e-6 is usual."""

HALF_TOLERANCE = 1e-2
"""The same where whitening is stored in 16 bits; 1e-4 is usual."""

PREPARATION = ("resize", "crop", "resize_mode", "roi", "bits")
"""Keys of a preprocessing that a program needs to prepare images."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Write a file once what it gives has been compared with what PyTorch gives.

    Raises:
        ValueError: a key is wrong.
        OSError: nothing can be written there.
        DeploymentError: a package is missing, or the file does not give what the model gives; one
            that was there before stays as it is.
    """
    require(config.format)
    checkpoint = Path(config.checkpoint)
    if checkpoint.is_dir():
        checkpoint /= "model.ckpt"
    suffix = SUFFIXES[config.format]
    path = Path(config.out or checkpoint.with_suffix(suffix)).expanduser()
    if path.suffix != suffix:
        raise ValueError(f"format={config.format} is written to *{suffix}, not to {path}")
    require_writable(path)
    module = load_checkpoint(checkpoint)
    verdicts = Verdicts.of(module.model, **config.threshold)
    log.info("%s", verdicts)
    prepared = fitted_preprocessing(module, str(checkpoint))
    metadata = {
        "preparation": {key: getattr(prepared, key) for key in PREPARATION} | {"padding": PADDING},
        "false_alarm_rate": verdicts.rate,
        "threshold_source": verdicts.source,
        "pixel_threshold": verdicts.pixel_threshold,
    }
    exact = Deployment(module.model, verdicts.threshold, pixels=config.pixels)
    stored = Deployment(module.model, verdicts.threshold, config.half, config.pixels)
    with replacing(path) as beside:
        export(stored, beside, config.format, metadata)
        error = difference(beside, exact)
        if not error <= (HALF_TOLERANCE if config.half else TOLERANCE):
            raise DeploymentError(
                f"{path} differs from PyTorch by {error:.2g} of the mean, so it is not written:"
                f" try {'half=false' if config.half else 'another format'}"
            )
    size = path.stat().st_size / 1e6
    log.info("On random images it differs from PyTorch by at most %.1g of the mean", error)
    log.info("Written to %s (%.1f MB)", path, size)
    return {"megabytes": size, "difference": error}


if __name__ == "__main__":
    launch("export")
