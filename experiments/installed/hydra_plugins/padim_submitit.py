"""Hydra's launcher that sends each group of jobs that share a pass to a cluster, as one job."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra_plugins.padim import Composed, OnePassLauncher

SHARED = ("timeout_min", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "mem_gb")
"""What submitit asks of any cluster; all else is of one kind and prefixed with its name."""

log = logging.getLogger(__name__)


class SubmititLauncher(OnePassLauncher):
    """Sends groups to SLURM, or to processes of this machine, by submitit, and waits for them.

    A group that ends without a result, as where it runs out of time, fails its jobs; the others go
    on, and `resume` does what is missing.

    Args:
        cluster: "slurm", or "local" to try it here.
        folder: for what submitit hands over, and the jobs' output.
        parameters: as submitit names them; those of SLURM alone without the prefix "slurm_".
    """

    def __init__(self, cluster: str, folder: str, **parameters: Any) -> None:
        self.cluster = cluster
        self.folder = folder
        self.parameters = parameters

    def run(self, groups: Sequence[Sequence[Composed]]) -> dict[int, JobReturn]:
        """Send all groups away at once; see `OnePassLauncher`."""
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise ValueError(
                f"this launcher needs a package that is missing ({error}): pip install"
                " 'padim-lightning[cluster]'"
            ) from error
        executor = submitit.AutoExecutor(Path(self.folder) / "%j", cluster=self.cluster)
        given = {key: value for key, value in self.parameters.items() if value is not None}
        executor.update_parameters(
            name="padim",
            **{k if k in SHARED else f"{self.cluster}_{k}": v for k, v in given.items()},
        )
        carried = Singleton.get_state(), self.hydra_context, self.task_function, self.config
        numbered = [[(job.number, list(job.overrides)) for job in group] for group in groups]
        with executor.batch():
            sent = [executor.submit(_run_there, *carried, group) for group in numbered]
        ids = ", ".join(job.job_id for job in sent)
        log.info("Sent to %s as %s; what they print is in %s", self.cluster, ids, self.folder)
        returns: dict[int, JobReturn] = {}
        for group, job in zip(groups, sent, strict=True):
            try:
                found, failed = job.result()
            except Exception as error:
                reason = str(error).strip().splitlines()[-1] if str(error) else repr(error)
                log.error("%s", error)
                failed = [f"  #{one.number}: {reason}" for one in group]
                nothing = JobReturn(status=JobStatus.COMPLETED)
                found = {one.number: nothing for one in group}
            self.task_function.failed.extend(failed)  # type: ignore[attr-defined]
            returns |= found
        return returns


def _run_there(
    state: Any,
    hydra_context: Any,
    task_function: Any,
    config: Any,
    group: Sequence[tuple[int, Sequence[str]]],
) -> tuple[dict[int, JobReturn], list[str]]:
    """Run the jobs of a group, in a process that knows nothing; return what failed as well."""
    Singleton.set_state(state)
    setup_globals()
    launcher = OnePassLauncher()
    launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
    jobs = [launcher.compose(overrides, number) for number, overrides in group]
    return launcher.run_group(jobs), task_function.failed
