"""The trainer of a verb: configured, with its loggers and a progress bar."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import WandbLogger

from experiments.progress import ImageProgress


@contextmanager
def open_trainer(
    config: DictConfig, folder: Path | None, *callbacks: Callback, progress: bool = True
) -> Iterator[Trainer]:
    """The configured trainer; its trackers' runs end with the block.

    Args:
        config: has `trainer`, and `logger` and `threads` or null.
        folder: the run folder; None for a run that leaves nothing behind.
        callbacks: beside the progress bar.
        progress: whether there is a progress bar.

    Raises:
        KeyboardInterrupt: on Ctrl-C, of which Lightning makes a SystemExit.
    """
    # Lightning's lines of information are device inventories and advertisements.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    tracked = folder is not None and config.get("logger")
    trainer = instantiate(
        config.trainer,
        logger=instantiate(config.logger, save_dir=str(folder)) if tracked else False,
        callbacks=[*([ImageProgress()] if progress else []), *callbacks],
        default_root_dir=str(folder) if folder else None,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(config.get("threads") or threads)
    try:
        yield trainer
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        torch.set_num_threads(threads)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):  # else the next job of a sweep would write into it
                logger.experiment.finish()
