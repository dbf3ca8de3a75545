"""The trainer of a verb: configured, with its loggers and a progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import WandbLogger

from experiments.progress import ImageProgress


@contextmanager
def open_trainer(config: DictConfig, folder: Path, *callbacks: Callback) -> Iterator[Trainer]:
    """The configured trainer; its trackers' runs end with the block.

    Args:
        config: has `trainer`, and `logger` or null.
        folder: the run folder.
        callbacks: beside the progress bar.

    Raises:
        KeyboardInterrupt: on Ctrl-C, of which Lightning makes a SystemExit.
    """
    trainer = instantiate(
        config.trainer,
        logger=instantiate(config.logger) if config.get("logger") else False,
        callbacks=[ImageProgress(), *callbacks],
        default_root_dir=str(folder),
    )
    try:
        yield trainer
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):  # else the next job of a sweep would write into it
                logger.experiment.finish()
