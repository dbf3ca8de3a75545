"""Hydra's launcher of the jobs of a sweep."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, configure_log, filter_overrides, run_job
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)


class OnePassLauncher(BasicLauncher):
    """Runs jobs in a row, after those that can share a pass over the images have done so.

    Each job then writes the run folder that it would have written alone.
    """

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs; see `Launcher`."""
        from experiments.one_pass import Job, group_jobs, run_shared  # imports torch

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.task_function is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        configs = [self._compose(o, i) for i, o in enumerate(job_overrides, initial_job_idx)]
        jobs = []
        for config in configs:
            task = config.copy()
            with open_dict(task):
                del task["hydra"]
            jobs.append(Job(task, Path(config.hydra.sweep.dir, config.hydra.sweep.subdir)))
        groups = group_jobs(jobs)
        shared = f"{_count(len(jobs), 'job')} in {_count(len(groups), 'group')}"
        passes = f"{len(groups)} pass{'es' * (len(groups) != 1)}"
        log.info("%s: %s over the images instead of %d", shared, passes, len(jobs))
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
        return config


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def register() -> None:
    """Make the launcher known to Hydra, which takes plugins from the package hydra_plugins only."""
    plugins = Plugins.instance()  # looks for those that are installed
    module = ModuleType("hydra_plugins.padim")
    OnePassLauncher.__module__ = module.__name__
    module.__dict__[OnePassLauncher.__name__] = OnePassLauncher
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    package.__dict__.setdefault("__path__", [])
    package.__dict__["padim"] = sys.modules[module.__name__] = module
    plugins.register(OnePassLauncher)
