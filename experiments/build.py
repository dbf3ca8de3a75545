"""What commands share: data, models and trainers, as the configuration names them."""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, open_dict
from pytorch_lightning import Callback, LightningDataModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.loggers import Logger
from torch import Tensor

from datamodules import LabelledData
from experiments.callbacks.recorder import Pool, TestRecorder
from experiments.tables.results import Result, read_result
from padim import Backbone, GradientFreeDDP, ImageMetrics, LitPaDiM, PaDiM, PixelMetrics

log = logging.getLogger(__name__)


def settle(config: DictConfig, sweep: bool) -> None:
    """Fill in what is null because a sweep wants less of it.

    Raises:
        ValueError: settings exclude each other.
    """
    if config.save_model is None:
        config.save_model = not sweep
    if config.pictures is None:
        config.pictures = 4 if sweep else 16
    if not sweep and (config.sweep.zip or config.sweep.variants):
        raise ValueError("sweep.zip and sweep.variants make a sweep: add -m")
    if config.select and config.data.get("shots", "all") != "all":
        raise ValueError("select=true takes all training images: it goes with data.shots=all")


def new_data(
    config: DictConfig | dict[str, Any], prepare: bool = True, stage: str = "fit"
) -> LightningDataModule:
    """The data module of the group `data`, set up.

    Args:
        config: the group.
        prepare: whether to download or make what is missing, in one process a machine.
        stage: "fit", or "test" where the training images may be gone.
    """
    settings: dict[Any, Any] = {**config}
    if settings.get("shots") == "all":  # as by default, and a user's own class need not know it
        settings = {key: value for key, value in settings.items() if not key.startswith("shot")}
    data: LightningDataModule = instantiate(settings)
    if prepare and not int(os.environ.get("LOCAL_RANK", "0")):
        data.prepare_data()
    data.setup(stage)
    if stage == "fit" and isinstance(data, LabelledData):
        data.find_bits()
    return data


def has_test(data: LightningDataModule) -> bool:
    """Whether there is any test image; a user's own data module need not say so."""
    overridden = type(data).test_dataloader is not LightningDataModule.test_dataloader
    return getattr(data, "has_test", overridden)


def image_size(data: LightningDataModule) -> tuple[int, int]:
    """(H, W) of the images; of a user's own data module, of its first training image."""
    if hasattr(data, "image_size"):
        return data.image_size
    batch = next(iter(data.train_dataloader()))
    image = batch["image"] if isinstance(batch, Mapping) else batch
    image = image if isinstance(image, torch.Tensor) else image[0]
    return image.shape[-2], image.shape[-1]


def category_of(data: LightningDataModule) -> str:
    """The name under which results are listed."""
    return str(getattr(data, "name", None) or type(data).__name__)


def new_model(config: DictConfig, backbone: Backbone, ignored: Tensor | None = None) -> PaDiM:
    """The model that a configuration describes; one that is not saved needs no threshold.

    One of frames of videos gets none: the neighbours of a frame that is left out are near copies.
    Of every image the pixels `ignored`, bool (H, W), are not looked at.
    """
    streamed = getattr(get_class(config.data._target_), "streamed", False)
    calibrated = config.save_model and config.threshold and not streamed
    return PaDiM(
        backbone,
        instantiate(config.reduction),
        instantiate(config.gaussian),
        instantiate(config.map),
        instantiate(config.score),
        instantiate(config.threshold) if calibrated else None,
        ignored,
    )


def new_trainer(
    config: DictConfig,
    folder: Path | None = None,
    callbacks: Iterable[Callback] = (),
    loggers: Sequence[Logger] = (),
    alone: bool = False,
) -> Trainer:
    """The configured trainer.

    Args:
        config: has `trainer`, and `threads` or null. `trainer.callbacks` and `trainer.logger` add
            to what is given here.
        folder: the run folder, `trainer.default_root_dir`; None for a run that leaves nothing.
        callbacks: a progress bar is left out where there is no terminal.
        loggers: of Lightning's kind.
        alone: whether the command is one for a single device.

    Raises:
        ValueError: there are several devices, and the command is for one, the strategy would show
            some images twice, or a sweep has no process for each.
    """
    # Lightning's lines of information are device inventories and advertisements.
    for package in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    settings = config.trainer.copy()
    with open_dict(settings):
        added, more = (_instantiated(settings.pop(key, None)) for key in ("callbacks", "logger"))
    callbacks = [*callbacks, *added]
    if not os.isatty(2):
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    trainer: Trainer = instantiate(
        settings,
        callbacks=callbacks,
        logger=[*loggers, *more],
        # The model is saved once, after the fit, unless a callback saves it as well.
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        default_root_dir=str(folder) if folder else None,
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if trainer.world_size == 1 and started > 1:
        raise ValueError(f"{started} processes share no run with one device: trainer=ddp")
    if trainer.world_size > 1:
        if alone:
            raise ValueError(
                f"{trainer.world_size} devices are for fit, evaluate and update: choose"
                " trainer.devices=1"
            )
        if not isinstance(trainer.strategy, GradientFreeDDP):
            raise ValueError(
                f"{trainer.world_size} devices take trainer=ddp, ddp_cpu or slurm, which show no"
                " image twice"
            )
        # A pass for several jobs runs before any of them is Hydra's own.
        single = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN
        if started == 1 and not single:
            raise ValueError(
                "a sweep on several devices is started by torchrun: torchrun --nproc-per-node="
                f"{trainer.num_devices} -m experiments.fit -m hydra/launcher=basic ..."
            )
    torch.set_num_threads(config.get("threads") or torch.get_num_threads())
    return trainer


def _instantiated(settings: Any) -> list[Any]:
    """Objects of a list, or of one, in a configuration; none of null and false."""
    if not settings:
        return []
    built = instantiate(settings, _convert_="all")
    return built if isinstance(built, list) else [built]


def progress(config: DictConfig) -> list[Callback]:
    """The progress bar alone, if there is one."""
    settings = (config.get("callbacks") or {}).get("progress")
    return [instantiate(settings)] if settings else []


def measure(
    config: DictConfig,
    trainer: Trainer,
    module: LitPaDiM,
    data: LightningDataModule,
    pool: Pool | None = None,
) -> dict[str, float]:
    """Evaluate on the test images; the trainer's callbacks write and log what is found."""
    options = config.metrics.false_alarm_rate, config.metrics.bootstrap or 0
    module.image_metrics = ImageMetrics(None, *options)
    module.pixel_metrics = PixelMetrics(config.metrics.binned, *options)
    TestRecorder.of(trainer).pool = pool
    logged = trainer.test(module, datamodule=data, verbose=False)
    if not logged:
        raise ValueError(f"trainer.limit_test_batches={trainer.limit_test_batches} leaves no batch")
    return {name: float(value) for name, value in logged[0].items()}


def finished_before(config: DictConfig, folder: Path) -> Result | None:
    """The result of a run that was finished before what is resumed was stopped."""
    if not config.resume or not (folder / "metrics.json").is_file():
        return None
    result = read_result(folder)
    return result if result and run_key(result.config) == run_key(config) else None


def run_key(config: Any) -> str:
    """Equal for runs of which one can stand for the other, where a run or sweep is resumed."""
    other = (
        *("save_model", "sweep.", "logger", "callbacks", "resume", "overwrite"),
        *("objective", "checkpoint_every"),
    )
    flat = Result.of("", config, {}).config
    kept = {key: value for key, value in flat.items() if not key.startswith(other)}
    return json.dumps(kept, sort_keys=True, default=str)
