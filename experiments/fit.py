"""padim fit: statistics of the normal images, then metrics where there are test images."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything

from experiments.batch import chosen_categories, run_batch, show_results
from experiments.evaluation import TestRecorder, test
from experiments.results import Result
from experiments.trainer import open_trainer
from padim import LitPaDiM, PaDiM

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Fit, save, evaluate; return the metrics, or their means over several categories."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    categories = chosen_categories(config.data)
    if categories is None:
        metrics = show_results([fit(config, folder)], folder, config.table)
    else:
        runs = {name: partial(fit, _of_category(config, name)) for name in categories}
        metrics = run_batch(runs, folder, config.table)
    log.info("Written to %s", folder)
    return metrics


def fit(config: DictConfig, folder: Path) -> Result:
    """One category: its model file, metrics, predictions and pictures into a folder."""
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
        instantiate(config.score),
    )
    module = LitPaDiM(model, data=_portable(config.data))
    metrics: dict[str, float] = {}
    recorder = TestRecorder(keep_maps=config.pictures > 0)
    with open_trainer(config, folder, recorder) as trainer:
        trainer.fit(module, datamodule=data)
        if config.save_model:
            trainer.save_checkpoint(folder / "model.ckpt")
        log_fit(module)
        if data.has_test:
            metrics = test(trainer, recorder, module, data, folder, config)
        else:
            log.info("There are no test images: the model is fitted and not evaluated.")
    return Result.of(data.name, config, metrics)


def log_fit(module: LitPaDiM) -> None:
    """Where the time of the fit went, and what the model weighs."""
    seconds = module.seconds
    n = int(module.model.statistics.count)
    outside = seconds["decode"] + seconds["backbone"]
    inside = seconds["statistics"] + seconds["covariances"]
    log.info(
        "Fitted on %d images in %.1f s: %.1f s waiting for images, %.1f backbone, %.2f statistics,"
        " %.2f covariances (%.1f %% on top of images and backbone); state %.1f MB",
        *(n, outside + inside, seconds["decode"], seconds["backbone"], seconds["statistics"]),
        *(seconds["covariances"], 100 * inside / outside, module.model.statistics.nbytes / 1e6),
    )


def _of_category(config: DictConfig, category: str) -> DictConfig:
    one = config.copy()
    one.data.category = category
    return one


def _portable(data: DictConfig) -> dict[str, Any]:
    """The data's configuration as plain values that hold from any folder."""
    plain: Any = OmegaConf.to_container(data, resolve=True)
    return {**plain, "root": str(Path(plain["root"]).absolute())}
