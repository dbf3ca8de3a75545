"""Launchers that send each group of jobs that share a pass to a cluster, as one of its jobs."""

import importlib
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals

from experiments.sweeps.launcher import Composed, OnePassLauncher

Numbered = Sequence[tuple[int, Sequence[str]]]
"""Numbers and overrides of jobs."""

SHARED = ("timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "mem_gb")
"""What submitit asks of any cluster; all else is of one kind and prefixed with its name."""

log = logging.getLogger(__name__)


class ClusterLauncher(OnePassLauncher):
    """Sends the groups away, all at once, and waits for them.

    A group that ends without a result, as where it runs out of time, fails its jobs; the others go
    on, and `resume` does what is missing.
    """

    def run(
        self, jobs: Sequence[Composed], groups: Sequence[Sequence[Composed]]
    ) -> Sequence[JobReturn]:
        """Run all jobs; see `OnePassLauncher`."""
        numbered = [[(job.number, list(job.overrides)) for job in group] for group in groups]
        found: dict[int, JobReturn] = {}
        for group, wait in zip(groups, self.send(numbered), strict=True):
            try:
                returns, failed = wait()
                found |= {job.number: one for job, one in zip(group, returns, strict=True)}
            except Exception as error:
                reason = str(error).strip().splitlines()[-1] if str(error) else repr(error)
                log.error("%s", error)
                failed = [f"  #{job.number}: {reason}" for job in group]
            self.task_function.failed.extend(failed)  # type: ignore[union-attr]
        return [found.get(job.number) or _nothing(job) for job in jobs]

    @abstractmethod
    def send(self, groups: Sequence[Numbered]) -> list[Callable[[], Any]]:
        """Send groups away; return for each what waits for its `run_group`."""

    def carried(self) -> tuple[Any, ...]:
        """The first arguments of `run_group`."""
        return Singleton.get_state(), self.hydra_context, self.task_function, self.config


class SubmititLauncher(ClusterLauncher):
    """Sends groups to SLURM, or to processes of this machine, by submitit.

    Args:
        cluster: "slurm", or "local" to try it here.
        folder: for what submitit hands over, and the jobs' output.
        parameters: as submitit names them; those of SLURM alone without the prefix "slurm_".
    """

    def __init__(self, cluster: str, folder: str, **parameters: Any) -> None:
        super().__init__()
        self.cluster = cluster
        self.folder = folder
        self.parameters = parameters

    def send(self, groups: Sequence[Numbered]) -> list[Callable[[], Any]]:
        """See `ClusterLauncher`."""
        submitit = _package("submitit")
        executor = submitit.AutoExecutor(Path(self.folder) / "%j", cluster=self.cluster)
        given = {key: value for key, value in self.parameters.items() if value is not None}
        executor.update_parameters(
            name="padim",
            **{k if k in SHARED else f"{self.cluster}_{k}": v for k, v in given.items()},
        )
        with executor.batch():
            sent = [executor.submit(run_group, *self.carried(), group) for group in groups]
        ids = ", ".join(job.job_id for job in sent)
        log.info("Sent to %s as %s; what they print is in %s", self.cluster, ids, self.folder)
        return [job.result for job in sent]


class RayLauncher(ClusterLauncher):
    """Sends groups to the machines of a Ray cluster, or to the cores of this one.

    Args:
        init: arguments of `ray.init`.
        remote: what each group needs, as arguments of `ray.remote`.
    """

    def __init__(self, init: dict[str, Any], remote: dict[str, Any]) -> None:
        super().__init__()
        self.init = init
        self.remote = remote

    def send(self, groups: Sequence[Numbered]) -> list[Callable[[], Any]]:
        """See `ClusterLauncher`."""
        ray = _package("ray")
        if not ray.is_initialized():
            ray.init(**self.init)
        task = ray.remote(run_group).options(**self.remote)
        references = [task.remote(*self.carried(), group) for group in groups]
        log.info("Sent to Ray")
        return [partial(ray.get, reference) for reference in references]


def run_group(
    state: Any, hydra_context: Any, task_function: Any, config: Any, group: Numbered
) -> tuple[Sequence[JobReturn], list[str]]:
    """Run the jobs of a group, in a process that knows nothing; return what failed as well."""
    Singleton.set_state(state)
    setup_globals()
    launcher = OnePassLauncher()
    launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
    jobs = [launcher.compose(overrides, number) for number, overrides in group]
    return launcher.run(jobs, [jobs]), task_function.failed


def _nothing(job: Composed) -> JobReturn:
    """Of a job that was finished before, or has failed and been told of."""
    return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED)


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this launcher needs a package that is missing ({error}): pip install"
            " 'padim-lightning[cluster]'"
        ) from error
