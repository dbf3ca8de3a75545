"""Hydra's launcher of the jobs of a sweep, and the sweeper that lists them."""

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job
from omegaconf import DictConfig, OmegaConf, open_dict

log = logging.getLogger(__name__)


class OnePassLauncher(BasicLauncher):
    """Runs jobs in a row, after those that can share a pass over the images have done so.

    Each job then writes the run folder that it would have written alone.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; see `Launcher`."""
        from experiments.fit import finished_before, settle  # imports torch
        from experiments.one_pass import Job, group_jobs, run_shared

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if not job_overrides:
            raise ValueError("the sweep is empty: one of its keys has no value")
        configs = [self._compose(o, i) for i, o in enumerate(job_overrides, initial_job_idx)]
        jobs = []
        for config in configs:
            task = config.copy()
            with open_dict(task):
                del task["hydra"]
            settle(task, sweep=True)
            jobs.append(Job(task, Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)))
        missing = [job for job in jobs if not finished_before(job.config, job.folder)]
        if len(missing) < len(jobs):
            done = _count(len(jobs) - len(missing), "job")
            log.info("%s of %d finished before, %d to do", done, len(jobs), len(missing))
        groups = group_jobs(missing)
        shared = f"{_count(len(missing), 'job')} in {_count(len(groups), 'group')}"
        passes = f"{len(groups)} pass{'es' * (len(groups) != 1)}"
        log.info("%s: %s over the images instead of %d", shared, passes, len(missing))
        for group in groups:
            if len(group) > 1:
                run_shared(group)
        returns = []
        for config, overrides in zip(configs, job_overrides, strict=True):
            log.info("#%d: %s", config.hydra.job.num, " ".join(filter_overrides(overrides)))
            returns.append(
                run_job(
                    hydra_context=self.hydra_context,
                    task_function=self.task_function,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            )
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returns

    def _compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        assert self.config is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            if "logger" in config:  # it refers to Hydra's part, which jobs of a shared pass lose
                OmegaConf.resolve(config.logger)
        return config


class OnePassSweeper(BasicSweeper):
    """Leaves it to the launcher to find a job that cannot be composed: that takes half the time."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Compose all jobs, unless the launcher does so before any is run."""
        if not isinstance(self.launcher, OnePassLauncher):
            super().validate_batch_is_legal(batch)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
