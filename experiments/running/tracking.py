"""The trackers of a run: begun with it, told of it when it ends, and never the end of it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from experiments.running.dashboards import tell, upload
from experiments.tables.results import CATEGORY_KEYS, flatten

log = logging.getLogger(__name__)

LEFT_OUT = ("logger", "table")
"""Parts of the configuration that say nothing of the model."""

# An MLflow server that is down would be waited for a quarter of an hour.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


@contextmanager
def tracked(config: DictConfig, folder: Path) -> Iterator[None]:
    """A run that the trackers of the configuration follow.

    Each is told the configuration when the block begins, and what the run folder holds when it
    ends. One that fails is named in a warning.

    Args:
        config: has `logger`, a mapping of names to Lightning loggers, if there are any. The text
            {category} in their settings stands for the run's own.
        folder: the run folder.

    Raises:
        MissingTrackerError: a package is not installed.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    settings = plain.get("logger") or {}
    described = {key: value for key, value in plain.items() if key not in LEFT_OUT}
    loggers: dict[str, Logger] = {}
    try:
        for name in settings:
            with _tolerated(name):
                loggers[name] = _begin(name, settings[name], described, folder)
        yield
    except BaseException:
        for name, logger in loggers.items():
            with _tolerated(name):
                _end(logger, failed=True)
        raise
    for name, logger in loggers.items():
        with _tolerated(name):
            try:
                tell(logger, flatten(described), folder)
                if settings[name].get("log_model"):
                    upload(logger, folder / "model.ckpt")
            finally:  # W&B would take a run left open for that of the next job
                _end(logger, failed=False)


class MissingTrackerError(ValueError):
    """The package of a tracker is not installed."""


@contextmanager
def _tolerated(name: str) -> Iterator[None]:
    """A warning for whatever a tracker raises, but that it is missing altogether."""
    try:
        yield
    except MissingTrackerError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # Hydra wraps what comes of instantiating
        log.warning("The run goes on without its tracker %s: %s", name, _line(cause))


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _begin(name: str, settings: dict[str, Any], config: dict[str, Any], folder: Path) -> Logger:
    """A logger whose run has begun and knows its configuration."""
    flat = flatten(config)
    category = next((str(flat[key]) for key in CATEGORY_KEYS if key in flat), "")
    own = {
        key: value.replace("{category}", category).strip() if isinstance(value, str) else value
        for key, value in settings.items()
    }
    if own.get("mode") == "online" and (reason := _wandb_unusable()):
        log.warning("The tracker wandb keeps its runs on disk, for `wandb sync`: %s", reason)
        own["mode"] = "offline"
    try:
        logger: Logger = instantiate(own, save_dir=str(folder), _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise MissingTrackerError(
                f"logger={name} needs a package that is missing ({error.__cause__}):"
                f" pip install 'padim-lightning[{name}]'"
            ) from error
        raise
    getattr(logger, "experiment", None)  # which begins it
    # W&B joins the keys of nested values with dots by itself, and takes dots in keys amiss.
    logger.log_hyperparams(config if isinstance(logger, WandbLogger) else flat)
    return logger


@cache  # one answer a program: a sweep does not wait again for every job
def _wandb_unusable() -> str | None:
    """Why nothing can be sent to W&B, if so; never asks for a login, as nobody may be there."""
    import wandb

    try:
        return None if wandb.login(prompt=False) else "nobody is logged in (`wandb login`)"
    except Exception as error:
        return _line(error)


def _end(logger: Logger, failed: bool) -> None:
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))
    else:
        logger.finalize("failed" if failed else "success")
