"""The trainer of a verb: configured, with its loggers and a progress bar."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer

from experiments.progress import ImageProgress
from experiments.tracking import tracked


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
    """
    # Lightning's lines of information are device inventories and advertisements.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    trainer = instantiate(
        config.trainer,
        callbacks=[*([ImageProgress()] if progress else []), *callbacks],
        default_root_dir=str(folder) if folder else None,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(config.get("threads") or threads)
    try:
        with tracked(config, folder) if folder else nullcontext():
            yield trainer
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        torch.set_num_threads(threads)
