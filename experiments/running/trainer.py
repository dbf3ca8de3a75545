"""The trainer of a verb: configured, with its loggers and a progress bar."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities.exceptions import SIGTERMException

from experiments.running.allocation import kept_from_forks
from experiments.running.progress import ImageProgress
from experiments.running.tracking import tracked
from padim.distributed import in_step, several

TERMINATED = 143
"""Exit status of a program stopped by SIGTERM, by the convention of shells."""


@contextmanager
def open_trainer(
    config: DictConfig, folder: Path | None, *callbacks: Callback, progress: bool = True
) -> Iterator[Trainer]:
    """The configured trainer, and its trackers for as long as the block lasts.

    Args:
        config: has `trainer`, and `logger` and `threads` or null.
        folder: the run folder; None for a run that leaves nothing behind.
        callbacks: beside the progress bar.
        progress: whether there is a progress bar.

    Raises:
        KeyboardInterrupt: on Ctrl-C, of which Lightning makes a SystemExit.
        SystemExit: with `TERMINATED`, on SIGTERM.
        ValueError: there are several devices, and no process for each.
    """
    callbacks = (PrivateStatistics(), *callbacks)
    callbacks = (ImageProgress(), *callbacks) if progress else callbacks
    root = str(folder) if folder else None
    trainer = new_trainer(config, callbacks=[*callbacks], default_root_dir=root)
    if trainer.world_size > 1 and not several():
        raise ValueError(
            f"{trainer.world_size} devices are for padim fit and evaluate, and sweeps on them take"
            " hydra/launcher=basic: choose trainer.devices=1"
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(config.get("threads") or threads)
    try:
        with tracked(config, folder) if folder and trainer.is_global_zero else nullcontext():
            yield trainer
    except SIGTERMException:
        sys.exit(TERMINATED)
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        torch.set_num_threads(threads)


def new_trainer(config: DictConfig, **settings: Any) -> Trainer:
    """The configured trainer."""
    # Lightning's lines of information are device inventories and advertisements.
    for package in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    return instantiate(config.trainer, **settings)


class PrivateStatistics(Callback):
    """Keeps what a fit writes to out of its decoding workers; see `kept_from_forks`."""

    def __init__(self) -> None:
        self._block = ExitStack()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._block.enter_context(kept_from_forks(pl_module.buffers()))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._block.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._block.close()


def prepare(data: LightningDataModule) -> None:
    """Download and unpack what is missing, in one process a machine."""
    with in_step():
        if not (several() and int(os.environ["LOCAL_RANK"])):
            data.prepare_data()
