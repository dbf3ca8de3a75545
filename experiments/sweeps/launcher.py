"""Hydra's launcher of the jobs of a sweep, and the sweeper that lists them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


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


class OnePassLauncher(BasicLauncher):
    """Runs jobs in a row, after those that can share a pass over the images have done so.

    Each job then writes the run folder that it would have written alone.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; see `Launcher`."""
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if not job_overrides:
            raise ValueError("the sweep is empty: one of its keys has no value")
        jobs = [self.compose(o, i) for i, o in enumerate(job_overrides, initial_job_idx)]
        groups = grouped(jobs)
        missing = sum(map(len, groups))
        if missing < len(jobs):
            done = _count(len(jobs) - missing, "job")
            log.info("%s of %d finished before, %d to do", done, len(jobs), missing)
        shared = f"{_count(missing, 'job')} in {_count(len(groups), 'group')}"
        passes = f"{len(groups)} pass{'es' * (len(groups) != 1)}"
        log.info("%s: %s over the images instead of %d", shared, passes, missing)
        return self.run(jobs, groups)

    def run(
        self, jobs: Sequence[Composed], groups: Sequence[Sequence[Composed]]
    ) -> Sequence[JobReturn]:
        """Run all jobs; those of a group share a pass, those of none are finished already."""
        from experiments.sweeps.one_pass import Job, run_shared  # imports torch

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        for group in groups:
            if len(group) > 1:
                run_shared([Job(_task_config(job), job.folder) for job in group])
        returns = []
        for job in jobs:
            log.info("#%d: %s", job.number, " ".join(filter_overrides(job.overrides)))
            returns.append(
                run_job(
                    hydra_context=self.hydra_context,
                    task_function=self.task_function,
                    config=job.config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            )
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returns

    def compose(self, overrides: Sequence[str], number: int) -> Composed:
        """The configuration of a job."""
        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            if "logger" in config:  # it refers to Hydra's part, which jobs of a shared pass lose
                OmegaConf.resolve(config.logger)
        return Composed(number, overrides, config)


class OnePassSweeper(BasicSweeper):
    """Leaves it to the launcher to find a job that cannot be composed: that takes half the time."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose all jobs, unless the launcher does so before any is run."""
        if not isinstance(self.launcher, OnePassLauncher):
            super().validate_batch_is_legal(batch)


def grouped(jobs: Sequence[Composed]) -> list[list[Composed]]:
    """The jobs that are not finished yet: those that can share a pass together."""
    from experiments.fit import finished_before  # imports torch
    from experiments.sweeps.one_pass import Job, group_jobs

    by_job = {Job(_task_config(job), job.folder): job for job in jobs}
    missing = [job for job in by_job if not finished_before(job.config, job.folder)]
    return [[by_job[job] for job in group] for group in group_jobs(missing)]


def _task_config(job: Composed) -> DictConfig:
    """What the verb sees of it."""
    from experiments.fit import settle  # imports torch

    task = job.config.copy()
    with open_dict(task):
        del task["hydra"]
    settle(task, sweep=True)
    return task


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
