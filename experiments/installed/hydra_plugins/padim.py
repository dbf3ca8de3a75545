"""Hydra's launcher of the jobs of a sweep, and the sweeper that lists them."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

# Private: the sweeper that Hydra's users know, less its own check, has no public base.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments import naming
from experiments.allocation import freeze_imports
from experiments.sweeps.grid import of_variants, product, read_variants
from experiments.values import check

log = logging.getLogger(__name__)
naming.register()


@dataclass(frozen=True, eq=False)
class Composed:
    """A job whose configuration is known.

    Args:
        number: of the job in the sweep.
        overrides: that make it.
        config: with Hydra's own part.
    """

    number: int
    overrides: Sequence[str]
    config: DictConfig

    @property
    def folder(self) -> Path:
        """Of its run."""
        return Path(self.config.hydra.sweep.dir, self.config.hydra.sweep.subdir)

    @property
    def task(self) -> DictConfig:
        """The part of it that the command sees."""
        from experiments.build import settle  # imports torch, which `--help` need not wait for

        task = self.config.copy()
        with open_dict(task):
            del task["hydra"]
        check(task, self.config.hydra.job.name)
        settle(task, sweep=True)
        return task


class OnePassLauncher(Launcher):
    """Runs groups of jobs that can share a pass over the images; all jobs in one process.

    Each job writes the run folder that it would have written alone.
    """

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """See `Launcher`."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; see `Launcher`."""
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if not job_overrides:
            raise ValueError("the sweep is empty: one of its keys has no value")
        jobs = [self.compose(o, i) for i, o in enumerate(job_overrides, initial_job_idx)]
        if self.config.get("resume"):
            jobs = self._renumbered(jobs)
        self._keep_config()
        groups = self._grouped(jobs)
        missing = sum(map(len, groups))
        if missing < len(jobs):
            done = _count(len(jobs) - missing, "job")
            log.info("%s of %d finished before, %d to do", done, len(jobs), missing)
        shared = f"{_count(missing, 'job')} in {_count(len(groups), 'group')}"
        passes = f"{len(groups)} pass{'es' * (len(groups) != 1)}"
        log.info("%s: %s over the images instead of %d", shared, passes, missing)
        waiting = {job for group in groups for job in group}
        finished = [[job] for job in jobs if job not in waiting]
        returns = self.run([*groups, *finished])
        return [returns[job.number] for job in jobs]

    def run(self, groups: Sequence[Sequence[Composed]]) -> dict[int, JobReturn]:
        """The returns of the jobs of all groups, by their numbers."""
        returns: dict[int, JobReturn] = {}
        jobs, start = sum(map(len, groups)), time.monotonic()
        for group in groups:
            returns |= self.run_group(group)
            if left := jobs - len(returns):
                seconds = round((time.monotonic() - start) / len(returns) * left)
                failed = len(self.task_function.failed)  # type: ignore[attr-defined]
                log.info(
                    "%d of %d jobs done%s%s, about %s left",
                    *(len(returns), jobs, f", {failed} failed" * bool(failed)),
                    *(self._best(returns), timedelta(seconds=seconds)),
                )
        return returns

    def _best(self, returns: Mapping[int, JobReturn]) -> str:
        """The job of the best first metric of the table, in words."""
        name, *_ = self.config.table.metrics or [""]
        found = {number: job.return_value for number, job in returns.items()}
        values = {k: v[name] for k, v in found.items() if isinstance(v, Mapping) and name in v}
        best = max(values, key=values.__getitem__, default=None)
        return "" if best is None else f", the best so far #{best}: {name} {values[best]:.4g}"

    def run_group(self, group: Sequence[Composed]) -> dict[int, JobReturn]:
        """Have jobs share a pass, if there are several, then run each; their returns by number."""
        from experiments.sweeps.one_pass import Job, run_shared  # imports torch

        found: Mapping[int, Any] = {}
        if len(group) > 1:
            freeze_imports()
            found = run_shared([Job(job.number, job.task, job.folder) for job in group])
        returns = {}
        for job in group:
            given: dict[str, Any] = {"found": found[job.number]} if job.number in found else {}
            log.info("#%d: %s", job.number, " ".join(filter_overrides(job.overrides)))
            returns[job.number] = run_job(
                hydra_context=self.hydra_context,
                task_function=partial(self.task_function, **given) if given else self.task_function,
                config=job.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returns

    def compose(self, overrides: Sequence[str], number: int) -> Composed:
        """The configuration of a job."""
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            if "logger" in config:  # it refers to Hydra's part, which jobs of a shared pass lose
                OmegaConf.resolve(config.logger)
        return Composed(number, overrides, config)

    def _renumbered(self, jobs: Sequence[Composed]) -> list[Composed]:
        """The jobs, each with the number that the resumed sweep knows it by, or a new one.

        So what was done before is found wherever a grid that has grown would put it.
        """
        from experiments.build import run_key  # imports torch

        known: dict[str, int] = {}
        for file in sorted(Path(self.config.hydra.sweep.dir).glob("*/config.yaml")):
            if file.parent.name.isdigit():
                known.setdefault(run_key(OmegaConf.load(file)), int(file.parent.name))
        numbers: dict[int, Composed] = {}
        for job in jobs:
            taken = {*known.values(), *numbers}
            number = job.number if job.number not in taken else max(taken) + 1
            with suppress(ValueError):  # of a value: said when it is the job's turn
                number = known.setdefault(run_key(job.task), number)
            numbers[number] = job if number == job.number else self.compose(job.overrides, number)
        return list(numbers.values())

    def _keep_config(self) -> None:
        """Write what `resume` reads, for sweepers that do not."""
        file = Path(self.config.hydra.sweep.dir) / "multirun.yaml"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.config, file)

    def _grouped(self, jobs: Sequence[Composed]) -> list[list[Composed]]:
        """The jobs that are not finished yet: those that can share a pass together."""
        from experiments.build import finished_before  # imports torch
        from experiments.sweeps.passes import pass_key

        groups: dict[str, list[Composed]] = {}
        for job in jobs:
            try:
                if finished_before(job.task, job.folder):
                    continue
                key = pass_key(job.task) or str(job.number)
            except ValueError:  # of a value: said when it is the job's turn
                key = str(job.number)
            groups.setdefault(key, []).append(job)
        return list(groups.values())


class OnePassSweeper(BasicSweeper):
    """Hydra's own sweeper, with grids that are no products: `sweep.zip` and `sweep.variants`.

    It leaves it to the launcher to find a job that cannot be composed: that takes half the time.
    """

    def split_arguments(  # type: ignore[override]  # of which Hydra's is static
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The jobs, by batches."""
        assert self.config is not None
        assert self.hydra_context is not None
        settings = self.config.get("sweep") or OmegaConf.create()
        check(OmegaConf.create({"sweep": settings}), self.config.hydra.job.name)
        paired = settings.get("zip") or ()
        if path := settings.get("variants"):
            parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
            jobs = of_variants(overrides, paired, read_variants(path), parser)
        else:
            jobs = product(overrides, paired)
        return [*self.split_overrides_to_chunks(jobs, max_batch_size)] if jobs else [[]]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose all jobs, unless the launcher does so before any is run."""
        if not isinstance(self.launcher, OnePassLauncher):
            super().validate_batch_is_legal(batch)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
