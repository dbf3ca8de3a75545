"""The trainer of a verb: configured, with its loggers and a progress bar."""

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
def open_trainer(config: DictConfig, folder: Path, *callbacks: Callback) -> Iterator[Trainer]:
    """The configured trainer; its trackers' runs end with the block.

    Args:
        config: has `trainer`, and `logger` and `threads` or null.
        folder: the run folder.
        callbacks: beside the progress bar.

    Raises:
        KeyboardInterrupt: on Ctrl-C, of which Lightning makes a SystemExit.
    """
    trainer = instantiate(
        config.trainer,
        logger=instantiate(config.logger, save_dir=str(folder)) if config.get("logger") else False,
        callbacks=[ImageProgress(), *callbacks],
        default_root_dir=str(folder),
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
