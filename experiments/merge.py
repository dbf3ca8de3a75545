"""padim merge: add up models that were fitted on different images."""

import dataclasses
import logging
from pathlib import Path

from omegaconf import DictConfig

from datamodules import Preprocessing
from experiments.app import launch
from experiments.build import fitted_preprocessing, new_trainer, save_model
from experiments.files import model_file, require_writable
from padim import CheckpointError, load_checkpoint, merge

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
    require_writable(model_file(config.out or "runs"))
    first, *others = given
    module = load_checkpoint(first)
    prepared = fitted_preprocessing(module, first)
    counts = [int(module.model.statistics.count)]
    for path in others:
        other = load_checkpoint(path)
        try:
            _require_equal(prepared, fitted_preprocessing(other, path))
            merge(module.model, other.model)
        except ValueError as error:
            raise CheckpointError(f"{first} and {path}: {error}") from error
        counts.append(int(other.model.statistics.count))
    log.info("Images: %s", " + ".join(map(str, counts)))
    save_model(module, new_trainer(config, alone=True), config.out)


def _require_equal(mine: Preprocessing, theirs: Preprocessing) -> None:
    for field in dataclasses.fields(mine):
        values = getattr(mine, field.name), getattr(theirs, field.name)
        if values[0] != values[1]:
            raise ValueError(
                f"models do not merge that differ in preprocessing.{field.name}:"
                f" {values[0]!r} and {values[1]!r}"
            )


if __name__ == "__main__":
    launch("merge")
