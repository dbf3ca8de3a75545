"""padim merge: add up models that were fitted on different images."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from datamodules import PREPARATION
from experiments.running.model_file import save_model
from experiments.running.trainer import open_trainer
from padim import CheckpointError, LitPaDiM, load_checkpoint, merge

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Write a model that has seen all images that any of the models has seen.

    Raises:
        ValueError: there is one model alone, or one is named twice.
        CheckpointError: a file is no model, or differs from the first in more than its images.
    """
    given = [config.checkpoints] if isinstance(config.checkpoints, str) else config.checkpoints
    if len(given) < 2:
        raise ValueError(f"it takes two models or more to merge, got {', '.join(given)}")
    if len({Path(path).resolve() for path in given}) < len(given):
        raise ValueError("a model is named twice: its images would count twice")
    first, *others = given
    module = load_checkpoint(first)
    counts = [int(module.model.statistics.count)]
    for path in others:
        other = load_checkpoint(path)
        try:
            _require_equal_preparation(module, other)
            merge(module.model, other.model)
        except ValueError as error:
            raise CheckpointError(f"{first} and {path}: {error}") from error
        counts.append(int(other.model.statistics.count))
    log.info("Images: %s", " + ".join(map(str, counts)))
    with open_trainer(config, None, progress=False) as trainer:
        save_model(module, trainer, config.out)


def _require_equal_preparation(module: LitPaDiM, other: LitPaDiM) -> None:
    mine, theirs = module.hparams["data"], other.hparams["data"]
    for key in PREPARATION:
        if mine.get(key) != theirs.get(key):
            raise ValueError(
                f"models do not merge that differ in data.{key}:"
                f" {mine.get(key)!r} and {theirs.get(key)!r}"
            )
