"""The `padim` command."""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.running import naming
from experiments.running.allocation import keep_freed_memory
from experiments.running.processes import overrides_of_followers
from experiments.running.resume import resumed
from experiments.sweeps import plugins

INTERRUPTED = 130
"""Exit status of a program stopped by Ctrl-C, by the convention of shells."""


HYDRA_OPTIONS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
)


@dataclass(frozen=True)
class Verb:
    """A verb: what it does, and how its arguments without a key become Hydra overrides.

    Args:
        purpose: one line for the list of verbs.
        positional: keys that take one plain argument each, in order.
        rest: key that takes all further plain arguments as a list.
        flags: plain flags and the override each stands for.
        options: options that are followed by a value, and the key of each.
        open: beginnings of keys that are given to what only the run knows.
    """

    purpose: str
    positional: tuple[str, ...] = ()
    rest: str | None = None
    flags: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    open: tuple[str, ...] = ()


VERBS = {
    "fit": Verb("fit a PaDiM on normal images, then evaluate it where there are test images"),
    "evaluate": Verb("measure fitted models on test images", rest="checkpoints", open=("data.",)),
    "predict": Verb(
        "score plain images and videos, and tell what is anomalous",
        ("checkpoint",),
        rest="images",
        flags={
            "--raw": "raw=true",
            "--strict": "strict=true",
            "--fail-on-anomaly": "fail_on_anomaly=true",
            "--watch": "watch=true",
        },
    ),
    "calibrate": Verb(
        "set a model's threshold by images that it was not fitted on",
        ("checkpoint",),
        rest="images",
        options={"-o": "out"},
    ),
    "update": Verb(
        "add more normal images to a fitted model",
        ("checkpoint",),
        options={"-o": "out"},
        open=("data.",),
    ),
    "merge": Verb(
        "add up models that were fitted on different images",
        rest="checkpoints",
        options={"-o": "out"},
    ),
    "export": Verb(
        "write a model as a file that runs without this project",
        ("checkpoint",),
        options={"-o": "out"},
    ),
    "report": Verb("make one page of runs, to open in any browser", rest="paths"),
    "benchmark": Verb("measure what a fit, a score and a sweep take on this machine"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb: `padim VERB [arguments] [key=value ...]`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        print(_overview())
        return
    if name not in VERBS:
        sys.exit(f"padim has no verb {name!r}; it has {', '.join(VERBS)}. `padim` lists them.")
    keep_freed_memory()
    # torch deprecated a class that this Lightning still asks for at every batch transfer.
    warnings.filterwarnings("ignore", r".*LeafSpec.*", FutureWarning, "pytorch_lightning")
    # Lightning fears for lengths of streams that do not tell workers apart; ours are exact.
    warnings.filterwarnings("ignore", r".*IterableDataset.* has `__len__` defined.*")
    # Where there are no masks, no pixel is measured.
    warnings.filterwarnings("ignore", r"The ``compute`` method of metric PixelMetrics was called.*")
    # A video is decoded in a row, by one worker.
    warnings.filterwarnings("ignore", r".*does not have many workers.*")
    # Of several processes the first has the metrics of all, and logs them alone.
    warnings.filterwarnings("ignore", r".*sync_dist=True.*")
    overrides = resumed(to_overrides(VERBS[name], arguments[1:]))
    wanted = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out of Hydra instead of being printed there
    try:
        with overrides_of_followers(overrides) as own, _one_line_errors(name, bool(wanted)):
            sys.argv = [f"padim {name}", *overrides, *own]
            failed: list[str] = []
            task = _task(name, bool(wanted), failed)
            plugins.register()
            naming.register()
            hydra.main(version_base="1.3", config_path="pkg://conf", config_name=name)(task)()
        if failed:
            sys.exit("\n".join([f"{len(failed)} of the jobs failed:", *failed]))
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C. What was written so far stays as it is.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        if not wanted:
            del os.environ["HYDRA_FULL_ERROR"]


def to_overrides(verb: Verb, arguments: Sequence[str]) -> list[str]:
    """Hydra overrides from a verb's arguments; what is one already, or a flag, is kept."""
    overrides: list[str] = []
    plain: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_option = argument.startswith("-") or before in HYDRA_OPTIONS_WITH_VALUE
        if argument in verb.flags:
            overrides.append(verb.flags[argument])
        elif before in verb.options:
            overrides.append(f"{verb.options[before]}={_quote(argument)}")
        elif argument in verb.options:
            continue
        elif is_option or ("=" in argument and not os.path.exists(argument)):
            overrides.append(f"++{argument}" if argument.startswith(verb.open) else argument)
        else:
            plain.append(argument)
    keys = verb.positional[: len(plain)]
    overrides += [f"{key}={_quote(value)}" for key, value in zip(keys, plain, strict=False)]
    further = plain[len(keys) :]
    if further and verb.rest is None:
        sys.exit(f"Error: {further[0]!r} is no key=value and no argument this verb takes")
    if further:
        overrides.append(f"{verb.rest}=[{','.join(map(_quote, further))}]")
    return overrides


def _quote(value: str) -> str:
    r"""Quote for Hydra's grammar, in which only \' and the backslashes before a quote escape."""
    body = value.replace("'", r"\'")
    trailing = len(body) - len(body.rstrip("\\"))
    return f"'{body}{chr(92) * trailing}'"


def _task(name: str, traceback: bool, failed: list[str]) -> Callable[[DictConfig], Any]:
    """The verb's `run`, imported when the configuration is known: `--help` need not wait.

    A job of a sweep that fails is added to `failed`, its attribute, with the reason, and the others
    go on.
    """

    def task(config: DictConfig) -> Any:
        hydra_config = HydraConfig.get()
        with _one_line_errors(name, traceback):  # before Hydra prints its own line
            run = importlib.import_module(f"experiments.{name}").run
            if not traceback:  # as it was: the run may start processes
                os.environ.pop("HYDRA_FULL_ERROR", None)
            try:
                return run(config)
            except Exception as error:
                message = _explained(error, name)
                if hydra_config.mode != RunMode.MULTIRUN or message is None:
                    raise
                failed.append(f"  #{hydra_config.job.num}: {message}")
                print(f"Error: {message}", file=sys.stderr)
            finally:
                os.environ["HYDRA_FULL_ERROR"] = "1"

    task.failed = failed  # type: ignore[attr-defined]
    return task


def _explained(error: Exception, verb: str) -> str | None:
    from experiments.errors import explain  # imports torch, which `--help` need not wait for

    return explain(error, verb)


@contextmanager
def _one_line_errors(verb: str, traceback: bool) -> Iterator[None]:
    """End the program with one line for what the user can mend; a traceback for the rest."""
    try:
        yield
    except Exception as error:
        message = _explained(error, verb)
        if traceback or message is None:
            raise
        print(f"Error: {message}", file=sys.stderr)
        sys.exit(1)


def _overview() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {verb.purpose}" for name, verb in VERBS.items())
    return (
        "padim: fit, sweep and compare PaDiM (patch-distribution anomaly detection).\n\n"
        f"{verbs}\n\n"
        "padim VERB --help shows a verb's configuration. To begin: padim fit data=demo"
    )


if __name__ == "__main__":
    main()
