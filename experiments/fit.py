"""padim fit: statistics of the normal images, then metrics where there are test images."""

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything

from experiments.evaluation import TestRecorder, test
from experiments.tables import print_fit, print_metrics
from experiments.trainer import open_trainer
from padim import LitPaDiM, PaDiM

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Fit, save, evaluate; return the metrics."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    seed_everything(config.seed, verbose=False)
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    model = PaDiM(
        instantiate(config.backbone, image_size=data.image_size),
        instantiate(config.reduction),
        instantiate(config.gaussian),
        instantiate(config.map),
    )
    module = LitPaDiM(model, data=_portable(config.data))
    metrics: dict[str, float] = {}
    recorder = TestRecorder(keep_maps=config.pictures > 0)
    with open_trainer(config, folder, recorder) as trainer:
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(folder / "model.ckpt")
        print_fit(module)
        if data.has_test:
            metrics = test(trainer, recorder, module, data, folder, config.pictures)
        else:
            log.info("There are no test images: the model is fitted and not evaluated.")
    print_metrics(data.name, metrics)
    log.info("Written to %s", folder)
    return metrics


def _portable(data: DictConfig) -> dict[str, Any]:
    """The data's configuration as plain values that hold from any folder."""
    plain: Any = OmegaConf.to_container(data, resolve=True)
    return {**plain, "root": str(Path(plain["root"]).absolute())}
