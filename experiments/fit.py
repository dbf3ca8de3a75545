"""padim fit: statistics of the normal images, then metrics where there are test images."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from datamodules import LabelledData
from experiments.drawing.shrinkage import write_shrinkage
from experiments.running.batch import chosen_categories, run_batch, show_results
from experiments.running.memory import FitMemory, plan_memory
from experiments.running.partial_fit import PartialFits
from experiments.running.processes import on_all_devices
from experiments.running.progress import image_count
from experiments.running.trainer import open_trainer, prepare
from experiments.scoring.evaluation import test, write_metrics
from experiments.scoring.recorder import Pool, TestRecorder
from experiments.tables.results import Result, read_result
from padim import Backbone, LitPaDiM, PaDiM
from padim.distributed import in_step, of_first

log = logging.getLogger(__name__)

FINISHED: dict[Path, Result | Exception] = {}
"""Results, by their folder, of what a sweep has done already together with other jobs."""


@on_all_devices
def run(config: DictConfig) -> dict[str, float]:
    """Fit, save, evaluate; return the metrics, or their means over several categories."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # which has one table, at its end
    settle(config, sweep)
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    several = chosen_categories(config.data)
    if several is None:
        metrics = show_results([fit(config, folder)], folder, config.table, quiet=sweep)
    else:
        key, categories = several
        data: type[LabelledData] = get_class(config.data._target_)
        pool = Pool() if data.pooled else None
        runs = {name: partial(fit, replaced(config, key, name), pool=pool) for name in categories}
        metrics = run_batch(runs, folder, config.table, pool, quiet=sweep)
    if not sweep:
        log.info("Written to %s", folder)
    return metrics


def settle(config: DictConfig, sweep: bool) -> None:
    """Fill in what is null because a sweep wants less of it."""
    if config.save_model is None:
        config.save_model = not sweep
    if config.pictures is None:
        config.pictures = 4 if sweep else 16


@in_step()
def fit(config: DictConfig, folder: Path, pool: Pool | None = None) -> Result:
    """One category: its model file, metrics, predictions and pictures into a folder."""
    done = FINISHED.pop(folder.absolute(), None)
    if isinstance(done, Exception):
        raise done
    if done or (done := None if pool else of_first(finished_before(config, folder))):
        return done
    (folder / "metrics.json").unlink(missing_ok=True)  # of a run before, in the same folder
    seed_everything(config.seed, verbose=False)
    data = instantiate(config.data)
    if not config.resume:  # a stopped run has its data
        prepare(data)
    data.setup("fit")
    model = new_model(config, instantiate(config.backbone, image_size=data.image_size))
    module = LitPaDiM(model, data=portable(config.data))
    recorder = TestRecorder(config.pictures, pool)
    partial = PartialFits(of_first(folder), config.checkpoint_every_n_images)
    with open_trainer(config, folder, recorder, partial) as trainer:
        if config.resume:
            data.counted = partial.resume(model, trainer.is_global_zero)
        elif trainer.is_global_zero:
            partial.clear()
        test_images = image_count(data.test_dataloader()) if data.has_test else 0
        need = FitMemory.of(model, test_images, config.metrics.binned)
        module.in_place = plan_memory(need, trainer.strategy.root_device)
        trainer.fit(module, datamodule=data)
        log_fit(module, trainer.world_size)
        result = finish(config, folder, trainer, recorder, module, data)
    if trainer.is_global_zero:
        partial.clear()
    return result


def finished_before(config: DictConfig, folder: Path) -> Result | None:
    """The result of a run that was finished before what is resumed was stopped."""
    if not config.resume or not (folder / "metrics.json").is_file():
        return None
    result = read_result(folder)
    if result is None or _kept(result.config) != _kept(Result.of("", config, {}).config):
        return None
    return result


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run must have in common with the one before."""
    other = ("save_model", "sweep.", "logger", "resume", "checkpoint_every")
    return {key: value for key, value in config.items() if not key.startswith(other)}


def finish(
    config: DictConfig,
    folder: Path,
    trainer: Trainer,
    recorder: TestRecorder,
    module: LitPaDiM,
    data: LabelledData,
    test_batches: DataLoader[dict[str, Any]] | None = None,
) -> Result:
    """Save a fitted model, evaluate it and write what is found into its run folder.

    `test_batches` stand in for those of the data, where features are at hand already.
    """
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    if config.save_model:
        trainer.save_checkpoint(folder / "model.ckpt")
    if module.in_place:
        module.factor_in_place()
    if module.model.shrinkage_choice:
        write_shrinkage(module.model.shrinkage_choice, folder)
    metrics: dict[str, float] = {}
    if data.has_test:
        metrics = test(trainer, recorder, module, data, folder, config, test_batches)
    else:
        log.info("There are no test images: the model is fitted and not evaluated.")
        write_metrics(metrics, folder)
    return Result.of(data.name, config, metrics)


def log_fit(module: LitPaDiM, processes: int = 1) -> None:
    """Where the time of the fit went, of several processes in the first, and the model's size."""
    seconds = module.seconds
    n = int(module.model.statistics.count)
    outside = seconds["decode"] + seconds["backbone"]
    inside = seconds["statistics"] + seconds["covariances"]
    log.info(
        "Fitted on %d images%s in %.1f s: %.1f s waiting for images, %.1f backbone,"
        " %.2f statistics, %.2f covariances (%.1f %% on top of images and backbone); state %.1f MB",
        *(n, f" by {processes} processes" * (processes > 1), outside + inside),
        *(seconds["decode"], seconds["backbone"], seconds["statistics"]),
        *(seconds["covariances"], 100 * inside / outside, module.model.statistics.nbytes / 1e6),
    )
    if (calibration := module.model.calibration) and calibration.rate:
        log.info(
            "Threshold %.4g for a false-alarm rate of %.2g: %d images left out in turn, in %.1f s",
            *(calibration.threshold(calibration.rate), calibration.rate, len(calibration.scores)),
            seconds["threshold"],
        )
    if choice := module.model.shrinkage_choice:
        log.info(
            "Shrinkage %.3f has the least leave-one-out NLL, %.1f nats a patch below none",
            *(choice.amount, choice.gain),
        )


def new_model(config: DictConfig, backbone: Backbone) -> PaDiM:
    """The model that a configuration describes; one that is not saved needs no threshold."""
    calibrated = config.save_model and config.threshold
    return PaDiM(
        backbone,
        instantiate(config.reduction),
        instantiate(config.gaussian),
        instantiate(config.map),
        instantiate(config.score),
        instantiate(config.threshold) if calibrated else None,
    )


def replaced(config: DictConfig, key: str, category: str) -> DictConfig:
    """The configuration of one of several categories."""
    one = config.copy()
    one.data[key] = category
    return one


def portable(data: DictConfig) -> dict[str, Any]:
    """The data's configuration as plain values that hold from any folder."""
    plain: Any = OmegaConf.to_container(data, resolve=True)
    target: type[LabelledData] = get_class(plain["_target_"])
    given = {key: plain[key] for key in target.path_keys if plain.get(key)}
    return {**plain, **{key: _absolute(paths) for key, paths in given.items()}}


def _absolute(paths: str | list[str]) -> str | list[str]:
    if isinstance(paths, str):
        return str(Path(paths).expanduser().absolute())
    return [str(Path(path).expanduser().absolute()) for path in paths]
