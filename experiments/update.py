"""padim update: add more normal images to a fitted model."""

import logging

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.evaluate import data_config, open_data, require_fitted_size
from experiments.fit import portable
from experiments.running.model_file import save_model
from experiments.running.processes import on_all_devices
from experiments.running.trainer import open_trainer
from padim import load_checkpoint

log = logging.getLogger(__name__)


@on_all_devices
def run(config: DictConfig) -> dict[str, float]:
    """Write the model of the images that it was fitted on and of more; return how many there are.

    Raises:
        ValueError: the images are those of the fit, or of another size.
        CheckpointError: the file is no model.
    """
    module = load_checkpoint(config.checkpoint)
    fitted, overrides = module.hparams["data"], list(HydraConfig.get().overrides.task)
    config.data = data_config(fitted, config.data, overrides)
    if portable(config.data) == fitted:
        raise ValueError(
            "those are the images of the fit, which would count twice: name others with"
            " data.KEY=..."
        )
    data = open_data(config.data, overrides)
    data.setup("fit")
    require_fitted_size(module, data)
    before = int(module.model.statistics.count)
    with open_trainer(config, None) as trainer:
        trainer.fit(module, datamodule=data)
        added = int(module.model.statistics.count) - before
        seconds = sum(module.seconds.values())
        log.info("Added %d images to %d in %.1f s", added, before, seconds)
        save_model(module, trainer, config.out)
    return {"images": float(before + added)}
