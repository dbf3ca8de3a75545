"""The loggers of a run, which can never be the end of it."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from experiments.tables.results import category_name, flatten
from padim.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

NAME_LENGTH = 120
"""Characters of the name of a run."""

TRACKERS = (WandbLogger, TensorBoardLogger, MLFlowLogger)
"""Loggers that show more than numbers."""

LEFT_OUT = ("logger", "callbacks", "table")
"""Parts of the configuration that say nothing of the model."""

# An MLflow server that is down would be waited for a quarter of an hour.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


class MissingLoggerError(ValueError):
    """The package of a logger is not installed."""


class TolerantLogger(Logger):
    """Any Lightning logger; where it fails, one warning names it and it is not used any more.

    Args:
        title: its name in the configuration.
        inner: the logger.
    """

    def __init__(self, title: str, inner: Logger) -> None:
        super().__init__()
        self.title = title
        self.inner = inner
        self.failed = False

    @staticmethod
    @contextmanager
    def guarding(logger: Logger) -> Iterator[None]:
        """Let what fails in the block cost this logger alone; one of another kind raises."""
        try:
            yield
        except Exception as error:
            if not isinstance(logger, TolerantLogger):
                raise
            if not logger.failed:
                _warn(logger.title, error)
            logger.failed = True

    def _call(self, method: str, *args: Any, **kwargs: Any) -> None:
        if not self.failed:
            with self.guarding(self):
                getattr(self.inner, method)(*args, **kwargs)

    @property
    def name(self) -> str | None:
        return self.inner.name

    @property
    def version(self) -> int | str | None:
        return self.inner.version

    @property
    def save_dir(self) -> str | None:
        return self.inner.save_dir

    @property
    def experiment(self) -> Any:
        """The tracker's own object; None where it cannot be had."""
        with self.guarding(self):
            return None if self.failed else getattr(self.inner, "experiment", None)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # Every entry has the one epoch there is.
        known = {name: value for name, value in metrics.items() if name != "epoch"}
        if known:
            self._call("log_metrics", known, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration, of which a module's own ones are part, is logged at once."""

    def save(self) -> None:
        self._call("save")

    def finalize(self, status: str) -> None:
        self._call("finalize", status)

    def close(self, failed: bool) -> None:
        """End the tracker's run, which W&B would take for that of the next job."""
        if isinstance(self.inner, WandbLogger) and not self.failed:
            with self.guarding(self):
                self.inner.experiment.finish(exit_code=int(failed))
        else:
            self.finalize("failed" if failed else "success")


@contextmanager
def open_loggers(
    config: DictConfig, folder: Path, kind: str = ""
) -> Iterator[list[TolerantLogger]]:
    """The loggers of the configuration, each of which knows it, for as long as the block lasts.

    Args:
        config: has `logger`, a mapping of names to Lightning loggers, if there are any. The text
            {category} in their settings stands for the run's own. `log_model` hands over
            model.ckpt at the end.
        folder: the run folder, their `save_dir`.
        kind: the `job_type` of a run that is not one job's, such as "sweep", and part of its name;
            it has `TRACKERS` alone.

    Raises:
        MissingLoggerError: a package is not installed.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    settings = plain.get("logger") or {}
    described = {key: value for key, value in plain.items() if key not in LEFT_OUT}
    loggers: list[TolerantLogger] = []
    failed = True
    try:
        for name, own in settings.items():
            if kind and not issubclass(get_class(own["_target_"]), TRACKERS):
                continue
            if logger := _begin(name, own, described, folder, kind):
                loggers.append(logger)
        yield loggers
        failed = False
        for logger in loggers:
            if settings[logger.title].get("log_model") and (folder / "model.ckpt").exists():
                with TolerantLogger.guarding(logger):
                    _upload(logger.inner, folder / "model.ckpt")
    finally:
        for logger in loggers:
            logger.close(failed)


def _begin(
    name: str, settings: dict[str, Any], config: dict[str, Any], folder: Path, kind: str
) -> TolerantLogger | None:
    """A logger whose run has begun and knows its configuration; None where it cannot be had."""
    flat = flatten(config)
    own = _filled(settings, category_name(flat), kind)
    if own.get("mode") == "online" and (reason := _wandb_unusable()):
        log.warning("The logger wandb keeps its runs on disk, for `wandb sync`: %s", reason)
        own["mode"] = "offline"
    try:
        inner: Logger = instantiate({**own, "save_dir": str(folder)}, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise MissingLoggerError(
                f"logger={name} needs a package that is missing ({error.__cause__}):"
                f" pip install 'padim-lightning[{name}]'"
            ) from error
        _warn(name, error.__cause__ or error)
        return None
    logger = TolerantLogger(name, inner)
    with TolerantLogger.guarding(logger):
        getattr(inner, "experiment", None)  # which begins it
        if isinstance(inner, MLFlowLogger):  # by which a sweep finds its jobs
            inner.experiment.set_tag(inner.run_id, "folder", str(folder.absolute()))
        # W&B joins the keys of nested values with dots by itself, and takes dots in keys amiss.
        inner.log_hyperparams(config if isinstance(inner, WandbLogger) else flat)
    return logger


def _filled(settings: dict[str, Any], category: str, kind: str) -> dict[str, Any]:
    """The settings of a logger with the name and the `job_type` that belong to the run."""
    own = dict(settings)
    for key, value in settings.items():
        if isinstance(value, dict):
            own[key] = _filled(value, category, kind)
        elif isinstance(value, str) and "{category}" in value:
            name = f"{category} {kind}" if kind else value.replace("{category}", category).strip()
            own[key] = _shortened(name)
        elif kind and key == "job_type":
            own[key] = kind
    return own


def _shortened(name: str) -> str:
    """Without the middle, if it is long: a category begins it, what a sweep varies ends it."""
    head = NAME_LENGTH // 4
    return name if len(name) <= NAME_LENGTH else f"{name[:head]}...{name[head + 3 - NAME_LENGTH :]}"


def _warn(name: str, error: BaseException) -> None:
    log.warning("The run goes on without its logger %s: %s", name, _line(error))


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@cache  # one answer a program: a sweep does not wait again for every job
def _wandb_unusable() -> str | None:
    """Why nothing can be sent to W&B, if so; never asks for a login, as nobody may be there."""
    import wandb

    try:
        return None if wandb.login(prompt=False) else "nobody is logged in (`wandb login`)"
    except Exception as error:
        return _line(error)


def _upload(logger: Logger, checkpoint: Path) -> None:
    """Hand over the model file."""
    if isinstance(logger, WandbLogger):
        import wandb

        artifact = wandb.Artifact(f"padim-{logger.experiment.id}", "model")
        artifact.add_file(str(checkpoint))
        logger.experiment.log_artifact(artifact)
    elif isinstance(logger, MLFlowLogger):
        client, run_id = logger.experiment, str(logger.run_id)
        client.log_artifact(run_id, str(checkpoint), "model")
        client.log_text(run_id, _signature(checkpoint), "model/MLmodel")


def _signature(checkpoint: Path) -> str:
    """Inputs and outputs of a model, as MLflow's MLmodel file; it names no loader."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    size = read_checkpoint(checkpoint)["hyper_parameters"]["model"]["backbone"]["image_size"]
    score = np.dtype(np.float32)
    images = TensorSpec(np.dtype(np.uint8), (-1, 3, *size), "image")
    scores, maps = TensorSpec(score, (-1,), "scores"), TensorSpec(score, (-1, *size), "maps")
    text: str = Model(signature=ModelSignature(Schema([images]), Schema([scores, maps]))).to_yaml()
    return text
