"""Model files of verbs that write nothing else."""

import logging
from pathlib import Path

from pytorch_lightning import Trainer

from padim import LitPaDiM

log = logging.getLogger(__name__)


def model_file(out: str) -> Path:
    """The file that `out` means: itself, or `model.ckpt` in a folder; its folder is made."""
    path = Path(out).expanduser()
    path = path if path.suffix == ".ckpt" else path / "model.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save_model(module: LitPaDiM, trainer: Trainer, out: str) -> None:
    """Write a model, and say where and of how many images it is."""
    path = model_file(out)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    log.info("A model of %d images is written to %s", module.model.statistics.count, path)
