"""The `padim` command: chooses an app, and turns plain arguments into Hydra overrides."""

import glob
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from experiments.app import launch

OPTIONS_WITH_VALUE = (
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i", "--shell-completion", "-sc"),
)
"""Options of Hydra that are followed by a value."""


@dataclass(frozen=True)
class Command:
    """A command: its purpose, and how its arguments without a key become overrides.

    Args:
        purpose: one line for the list of commands.
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


OF_THE_FIT = ("data.", "preprocessing.", "loading.")
"""Beginnings of keys that replace what a model file says of its data."""

COMMANDS = {
    "fit": Command("fit a PaDiM on normal images, then evaluate it where there are test images"),
    "evaluate": Command(
        "measure fitted models on test images", rest="checkpoints", open=OF_THE_FIT
    ),
    "predict": Command(
        "score plain images and videos, and call them normal or anomalous",
        ("checkpoint",),
        rest="images",
        flags={
            "--raw": "raw=true",
            "--strict": "strict=true",
            "--fail-on-anomaly": "fail_on_anomaly=true",
            "--watch": "watch=true",
        },
    ),
    "calibrate": Command(
        "set a model's threshold by images that it was not fitted on",
        ("checkpoint",),
        rest="images",
        options={"-o": "out"},
    ),
    "update": Command(
        "add more normal images to a fitted model",
        ("checkpoint",),
        options={"-o": "out"},
        open=OF_THE_FIT,
    ),
    "merge": Command(
        "add up models that were fitted on different images",
        rest="checkpoints",
        options={"-o": "out"},
    ),
    "export": Command(
        "write a model as a file that runs without this project",
        ("checkpoint",),
        options={"-o": "out"},
    ),
    "paper": Command("make the tables of the paper, with its figures beside, on one page"),
    "report": Command("make one page of runs, to open in any browser", rest="paths"),
    "benchmark": Command("measure what a fit, a score and a sweep take on this machine"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command: `padim COMMAND [arguments] [key=value ...]`."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("--help", "-h", "help"):
        print(_overview())
    elif name == "--version":
        print(f"padim-lightning {version('padim-lightning')}")
    elif name in ("-sc", "--shell-completion"):
        _complete(arguments[1:])
    elif name not in COMMANDS:
        sys.exit(
            f"padim has no command {name!r}; it has {', '.join(COMMANDS)}. `padim` lists them."
        )
    else:
        sys.argv = [f"padim {name}", *to_overrides(COMMANDS[name], arguments[1:])]
        launch(name)


def to_overrides(command: Command, arguments: Sequence[str]) -> list[str]:
    """Hydra's options and overrides from a command's arguments; what is one already is kept.

    Options come first, as Hydra takes none between overrides.
    """
    options: list[str] = []
    overrides: list[str] = []
    plain: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        drops_key = argument.startswith("~") and not argument.startswith("~/")
        if argument in command.flags:
            overrides.append(command.flags[argument])
        elif before in command.options:
            overrides.append(f"{command.options[before]}={quote(argument)}")
        elif argument in command.options:
            continue
        elif argument.startswith("-") or before in OPTIONS_WITH_VALUE:
            options.append(argument)
        elif drops_key or ("=" in argument and not _is_there(argument)):
            overrides.append(f"++{argument}" if argument.startswith(command.open) else argument)
        else:
            plain.append(argument)
    keys = command.positional[: len(plain)]
    overrides += [f"{key}={quote(value)}" for key, value in zip(keys, plain, strict=False)]
    further = plain[len(keys) :]
    if further and command.rest is None:
        sys.exit(f"Error: {further[0]!r} is no key=value and no argument this command takes")
    if further:
        overrides.append(f"{command.rest}=[{','.join(map(quote, further))}]")
    return [*options, *overrides]


def _is_there(argument: str) -> bool:
    """Whether it names a file, or is a pattern that does: a name may hold a =."""
    return os.path.exists(argument) or any(glob.iglob(argument, recursive=True))


def quote(value: str) -> str:
    r"""Quote for Hydra's grammar, in which only \' and the backslashes before a quote escape."""
    body = value.replace("'", r"\'")
    trailing = len(body) - len(body.rstrip("\\"))
    return f"'{body}{chr(92) * trailing}'"


def _complete(query: Sequence[str]) -> None:
    """Hydra's shell completion, of the command that the line typed so far names."""
    line = os.environ.get("COMP_LINE", "padim fit ").split(" ")
    name = line[1] if len(line) > 2 and line[1] in COMMANDS else None
    if name is None:
        print(" ".join(COMMANDS))
        return
    os.environ["COMP_LINE"] = " ".join([line[0], *line[2:]])
    sys.argv = ["padim", "-sc", *query]
    launch(name)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {c.purpose}" for name, c in COMMANDS.items())
    return (
        "padim: fit, sweep and compare PaDiM (patch-distribution anomaly detection).\n\n"
        f"{commands}\n\n"
        "padim COMMAND --help shows a command's configuration. To begin: padim fit data=demo"
    )


if __name__ == "__main__":
    main()
