"""padim fit: statistics of the normal images, then metrics where there are test images."""

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import Logger

from experiments.evaluation import test
from experiments.progress import ImageProgress
from experiments.tables import print_fit, print_metrics
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
    trainer = make_trainer(config, folder)
    fit(trainer, module, data)
    trainer.save_checkpoint(folder / "model.ckpt")
    print_fit(module)
    metrics = {}
    if data.has_test:
        metrics = test(trainer, module, data, folder, config.pictures)
        print_metrics(data.name, metrics)
    else:
        log.info("There are no test images: the model is fitted and not evaluated.")
    log.info("Written to %s", folder)
    return metrics


def make_trainer(config: DictConfig, folder: Path) -> Trainer:
    """The configured trainer, with its loggers and a bar that counts images."""
    logger: Logger | None = instantiate(config.logger) if config.get("logger") else None
    return instantiate(
        config.trainer,
        logger=logger or False,
        callbacks=[ImageProgress()],
        default_root_dir=str(folder),
    )


def fit(trainer: Trainer, module: LitPaDiM, data: Any) -> None:
    """One epoch of statistics; Ctrl-C comes out as KeyboardInterrupt."""
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None


def _portable(data: DictConfig) -> dict[str, Any]:
    """The data's configuration as plain values that hold from any folder."""
    plain: Any = OmegaConf.to_container(data, resolve=True)
    return {**plain, "root": str(Path(plain["root"]).absolute())}
