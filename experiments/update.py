"""padim update: add more normal images to a fitted model."""

import logging

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.app import launch
from experiments.build import new_data, new_trainer, progress
from experiments.files import model_file, require_writable
from experiments.model_files import (
    asks_for_data,
    log_threshold,
    portable,
    require_fitted_size,
    save_model,
    saved_data,
)
from experiments.scoring.verdicts import Verdicts
from padim import load_checkpoint

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Write the model of the images that it was fitted on and of more; return how many there are.

    Raises:
        ValueError: images are those of the fit, or of another size.
        CheckpointError: the file is no model.
    """
    require_writable(model_file(config.out or "runs"))
    module = load_checkpoint(config.checkpoint)
    overrides = list(HydraConfig.get().overrides.task)
    composed = saved_data(module, config, overrides)
    if portable(composed) == portable(saved_data(module)) and not config.allow_overlap:
        raise ValueError(
            "those are the images of the fit, which would count twice: name others with"
            " data.KEY=..."
        )
    if "shots" in composed and not any("data.shots" in override for override in overrides):
        composed.shots = "all"  # what it says is of the fit
    data = new_data(composed, prepare=asks_for_data(overrides))
    require_fitted_size(module, data)
    before, threshold = int(module.model.statistics.count), Verdicts.of(module.model).threshold
    module.accumulate = True
    trainer = new_trainer(config, callbacks=progress(config))
    trainer.fit(module, datamodule=data)
    if module.repeated and not config.allow_overlap:
        raise ValueError(
            f"{module.repeated} of these images were counted before, and would count twice: leave"
            " them out, or insist with allow_overlap=true"
        )
    added = int(module.model.statistics.count) - before
    log.info("Added %d images to %d in %.1f s", added, before, sum(module.seconds.values()))
    log_threshold(module.model, threshold)
    save_model(module, trainer, config.out)
    return {"images": float(before + added)}


if __name__ == "__main__":
    launch("update")
