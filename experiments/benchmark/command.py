"""The command `padim fit` as a user gives it, with the time and memory it takes."""

import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT, run
from typing import NamedTuple

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from pytorch_lightning.profilers import SimpleProfiler

GROUPS = (
    *("backbone", "reduction", "gaussian", "map", "score", "threshold"),
    *("preprocessing", "loading", "data", "trainer"),
)
"""Groups that a benchmark and a fit have in common."""

PACKAGES = (sys.executable, "-P", "-c", "import experiments.fit")
"""A command that imports what a fit needs, and ends."""

# In a small process of its own: on Linux the peak of a process is at least that of its parent.
LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[2:])
wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
with open(sys.argv[1], "w", encoding="utf-8") as report:
    json.dump({"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak": peak}, report)
sys.exit(status)
"""

PRINTED = {
    "fit: waiting for images": r"([\d.]+) s waiting for images",
    "fit: backbone": r"([\d.]+) backbone",
    "fit: statistics": r"([\d.]+) statistics,",
    "fit: covariances": r"([\d.]+) covariances",
    "fit: threshold": r"([\d.]+) threshold",
}
"""Phases of a fit in the line it prints."""

PROFILED = {
    "test: waiting for images": "test_next",
    "test: scoring": ".test_step",
    "test: metrics": "LitPaDiM.on_test_epoch_end",
}
"""Phases of a test by the end of the action's name in Lightning's profiler."""


class Usage(NamedTuple):
    """Elapsed and processor seconds of a command, peak bytes of its largest process, its output."""

    wall: float
    cpu: float
    peak: int
    output: str


class JobProfiler(SimpleProfiler):
    """Lightning's profiler, into a JSON file of seconds by action.

    "start" is what passes between the start of the process and that of the epoch.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = Path(path)

    def start(self, action_name: str) -> None:
        if action_name.endswith("LitPaDiM.on_train_epoch_start"):
            self.recorded_durations["start"] = [time.time() - psutil.Process().create_time()]
        super().start(action_name)

    def describe(self) -> None:
        """Write the file: at the end of the fit, and again of the test."""
        seconds = {name: sum(durations) for name, durations in self.recorded_durations.items()}
        self._path.write_text(json.dumps(seconds), encoding="utf-8")


def run_command(command: Sequence[str]) -> Usage:
    """Run a command to its end.

    Raises:
        ChildProcessError: it fails; with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "usage.json")
        launched = [sys.executable, "-S", "-c", LAUNCHER, str(report), *command]
        done = run(launched, stdout=PIPE, stderr=STDOUT, text=True)
        if done.returncode:
            output = done.stdout.strip() or f"exit status {done.returncode}"
            raise ChildProcessError(f"{' '.join(command)} failed: {output.splitlines()[-1]}")
        return Usage(**json.loads(report.read_text(encoding="utf-8")), output=done.stdout)


def run_fit(config: DictConfig, folder: Path, *overrides: str, **groups: str) -> Usage:
    """Run `padim fit` for the model and data of a benchmark, without loggers.

    Args:
        config: of the benchmark.
        folder: of the run, or of the sweep.
        overrides: further ones.
        groups: choices of groups in place of the benchmark's, whose keys are then left out.
    """
    hydra = HydraConfig.get()
    choices = {name: str(hydra.runtime.choices[name]) for name in GROUPS} | groups
    kept = tuple(f"{name}." for name in GROUPS if name not in groups)
    given = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    keys = [f"{name}={choice}" for name, choice in choices.items()]
    keys += [str(one.input_line) for one in given if one.key_or_group.startswith(kept)]
    keys += [f"seed={config.seed}", f"threads={config.threads or 'null'}", "logger=none"]
    keys += [f"hydra.run.dir='{folder}'", f"hydra.sweep.dir='{folder}'", "overwrite=true"]
    keys += [f"trainer.accelerator={config.device}"]
    return run_command([sys.executable, "-P", "-m", "experiments.fit", *keys, *overrides])


def profile_fit(config: DictConfig, folder: Path) -> dict[str, float]:
    """Seconds of each phase of a `padim fit`, and of the whole; its run folder is folder/run."""
    path = folder / "profile.json"
    profiler = f"{{_target_:{__name__}.JobProfiler,path:'{path}'}}"
    usage = run_fit(config, folder / "run", f"+trainer.profiler={profiler}")
    profile: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    found = {name: re.findall(pattern, usage.output) for name, pattern in PRINTED.items()}
    seconds = {"start, to the first batch": profile["start"]}
    seconds |= {name: float(times[0]) for name, times in found.items()}
    for name, end in PROFILED.items():
        if times := [value for action, value in profile.items() if action.endswith(end)]:
            seconds[name] = sum(times)
    rest = usage.wall - sum(seconds.values())
    return {**seconds, "pictures, files and rest": rest, "whole": usage.wall}
