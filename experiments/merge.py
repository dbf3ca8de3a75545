"""padim merge: add up models that were fitted on different images."""

import dataclasses
import logging

import torch
from omegaconf import DictConfig

from datamodules import Preprocessing
from experiments.app import launch
from experiments.build import new_trainer
from experiments.files import model_file, require_writable
from experiments.model_files import fitted_preprocessing, log_threshold, save_model
from experiments.scoring.verdicts import Verdicts
from padim import CheckpointError, LitPaDiM, load_checkpoint, merge
from padim.sample import joined_fingerprints

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Write a model that has seen all images that any of the models has seen.

    Raises:
        ValueError: there is one model alone.
        CheckpointError: a file is no model, or differs from the first in more than its images, or
            has seen some of the same.
    """
    first, *others = config.checkpoints
    if not others:
        raise ValueError(f"it takes two models or more to merge, got {first}")
    require_writable(model_file(config.out or "runs"))
    module = load_checkpoint(first)
    prepared = fitted_preprocessing(module, first)
    threshold = Verdicts.of(module.model).threshold
    counts = [int(module.model.statistics.count)]
    for path in others:
        other = load_checkpoint(path)
        try:
            _require_equal(prepared, fitted_preprocessing(other, path))
            if (shared := _shared(module, other)) and not config.allow_overlap:
                raise ValueError(
                    f"both have seen {shared} of the same images, which would count twice; to"
                    " insist: allow_overlap=true"
                )
            merge(module.model, other.model)
            module.fingerprints = joined_fingerprints(module.fingerprints, other.fingerprints)
        except ValueError as error:
            raise CheckpointError(f"{first} and {path}: {error}") from error
        counts.append(int(other.model.statistics.count))
    log.info("Images: %s", " + ".join(map(str, counts)))
    log_threshold(module.model, threshold)
    save_model(module, new_trainer(config, alone=True), config.out)


def _shared(mine: LitPaDiM, theirs: LitPaDiM) -> int:
    """Number of images that both have seen, as their files say; all, if they are the same."""
    statistics = mine.model.statistics.buffers(), theirs.model.statistics.buffers()
    if all(map(torch.equal, *statistics)):
        return int(mine.model.statistics.count)
    return int(torch.isin(mine.fingerprints, theirs.fingerprints).sum())


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
