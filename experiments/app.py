"""A command as an ordinary Hydra app: what all of them share."""

import gc
import importlib.util
import io
import logging
import math
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig

from experiments.allocation import freeze_imports, keep_freed_memory
from experiments.resume import resumed
from experiments.values import check

INTERRUPTED, TERMINATED = 130, 143
"""Exit statuses of a program stopped by Ctrl-C and by SIGTERM, by the convention of shells."""

FULL_ERROR = "HYDRA_FULL_ERROR"
"""The variable by which Hydra's users ask for tracebacks."""

LAUNCHED = ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that a process has which torchrun or Lightning has started as one of several."""

LEFT_OVER = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    "TORCHELASTIC_RUN_ID",
)
"""Those that a shell may have where it was itself started so, or by a job's script."""

OF_SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
"""Those that any shell in an allocation of SLURM has."""


def launch(command: str) -> None:
    """Run a command, `experiments.<command>.run`, on the overrides in `sys.argv`.

    A mistake in input or configuration ends the program with one line and status 1. A job of a
    sweep that fails is named at the end, and the others go on.
    """
    app = _App(command)
    keep_freed_memory()
    _filter_warnings()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name can be what no encoding has
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.argv = [sys.argv[0], *resumed(sys.argv[1:])]
    _ignore_other_launchers()
    try:
        with (
            on_sigterm(lambda *_: sys.exit(TERMINATED)),
            _named(command),
            _full_error(True),
            _leaving_nothing_behind(),
        ):
            hydra.main(version_base="1.3", config_path="pkg://conf", config_name=command)(app)()
    except KeyboardInterrupt:
        _stop("Stopped by Ctrl-C. What was written so far stays as it is.", INTERRUPTED)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's answer to Ctrl-C
            _stop("Stopped by Ctrl-C. What was written so far stays as it is.", INTERRUPTED)
        if type(stop).__name__ == "SIGTERMException":  # Lightning's, which `--help` need not import
            sys.exit(TERMINATED)
        raise
    except Exception as error:
        message = _explained(error, command)
        if message is None or app.traceback:
            raise
        if isinstance(error, OSError) and not isinstance(
            error, HydraException
        ):  # of the run folder
            message += "; another folder for the run is named with hydra.run.dir=FOLDER"
        _stop(f"Error: {message}", 1)
    finally:
        gc.unfreeze()
    if app.failed:
        sys.exit("\n".join([f"{len(app.failed)} of the jobs failed:", *app.failed]))


class _App:
    """The task function of a command; what it runs is imported once the configuration is known.

    Attributes:
        traceback: whether errors keep their tracebacks.
        failed: a line for each job of a sweep that failed.
    """

    def __init__(self, command: str) -> None:
        self.command = command
        self.traceback = bool(os.environ.get(FULL_ERROR))
        self.failed: list[str] = []
        # Hydra takes the names of the job and of the search path from here.
        self.__module__, self.__name__ = f"experiments.{command}", command

    def __call__(self, config: DictConfig, **found: Any) -> Any:
        """Run it; `found` is what a launcher has found for the job already."""
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            check(config, self.command)
            run = importlib.import_module(f"experiments.{self.command}").run
            freeze_imports()
            with _full_error(self.traceback):  # as it was: the run may start processes
                return run(config, **found)
        except Exception as error:
            message = _explained(error, self.command)
            if message is None or (self.traceback and not sweep):
                raise
            print(f"Error: {message}", file=sys.stderr)
            if not sweep:
                sys.exit(1)  # Hydra would add a line of its own to what it is given
            self.failed.append(f"  #{HydraConfig.get().job.num}: {message}")
            return math.nan  # by which a sweeper that searches knows


@contextmanager
def on_sigterm(handler: Any) -> Iterator[None]:
    """Handle SIGTERM; one that raises `SystemExit` has files ended and temporary ones removed."""
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _named(command: str) -> Iterator[None]:
    """Name the command's module as the program: Lightning starts other processes by that name."""
    main = sys.modules["__main__"]
    before = main.__spec__
    main.__spec__ = importlib.util.find_spec(f"experiments.{command}")
    try:
        yield
    finally:
        main.__spec__ = before


@contextmanager
def _full_error(wanted: bool) -> Iterator[None]:
    """Have Hydra raise errors instead of printing them, so that `launch` says what is wrong."""
    before = os.environ.pop(FULL_ERROR, None)
    if wanted:
        os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        os.environ.pop(FULL_ERROR, None)
        if before is not None:
            os.environ[FULL_ERROR] = before


def _ignore_other_launchers() -> None:
    """Drop the variables of a launcher that has not started this process as one of several.

    Lightning would take part in a run that there is not, as a process that writes nothing.
    """
    launched = all(name in os.environ for name in LAUNCHED)
    by_slurm = "trainer=slurm" in sys.argv
    for name in LEFT_OVER * (not launched) + OF_SLURM * (not by_slurm):
        os.environ.pop(name, None)
    if not (launched or by_slurm):
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # it may have read them already


@contextmanager
def _leaving_nothing_behind() -> Iterator[None]:
    """Of several processes of a run, let all but the first print errors alone and write nowhere."""
    if not any(int(os.environ.get(rank, "0")) for rank in ("RANK", "LOCAL_RANK", "SLURM_PROCID")):
        yield
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with (
        tempfile.TemporaryDirectory(prefix="padim") as folder,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
    ):
        sys.argv += [f"hydra.run.dir='{folder}'", f"hydra.sweep.dir='{folder}'"]
        sys.stdout, printing = nowhere, sys.stdout
        try:
            yield
        finally:
            sys.stdout = printing


def _filter_warnings() -> None:
    # torch deprecated a class that this Lightning still asks for at every batch transfer.
    warnings.filterwarnings("ignore", r".*LeafSpec.*", FutureWarning, "pytorch_lightning")
    # Lightning fears for lengths of streams that do not distinguish workers; ours are exact.
    warnings.filterwarnings("ignore", r".*IterableDataset.* has `__len__` defined.*")
    # Where there are no masks, no pixel is measured.
    warnings.filterwarnings("ignore", r"The ``compute`` method of metric PixelMetrics was called.*")
    # A video is decoded in a row, by one worker.
    warnings.filterwarnings("ignore", r".*does not have many workers.*")
    # Who has a GPU and says trainer=cpu means it.
    warnings.filterwarnings("ignore", r"GPU available but not used.*")
    # Of several processes the first has the metrics of all, and logs them alone.
    warnings.filterwarnings("ignore", r".*sync_dist=True.*")


def _explained(error: Exception, command: str) -> str | None:
    from experiments.errors import explain  # imports torch, which `--help` need not wait for

    return explain(error, command)


def _stop(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)
