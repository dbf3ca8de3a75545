"""The processes of a run on several devices: started, told apart, and ended together."""

import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

Run = Callable[[DictConfig], dict[str, float]]


@contextmanager
def overrides_of_followers(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Overrides by which any process but the first leaves nothing behind; none for the first.

    Known before anything is composed: from torchrun, or with trainer=slurm from SLURM, of which a
    step may also be many runs that know nothing of each other.
    """
    known = ("RANK", "SLURM_PROCID") if "trainer=slurm" in overrides else ("RANK",)
    if not int(next((os.environ[name] for name in known if name in os.environ), "0")):
        yield []
        return
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="padim") as folder:
        yield [f"hydra.run.dir='{folder}'", f"hydra.sweep.dir='{folder}'"]


def on_all_devices(run: Run) -> Run:
    """Have a verb run in as many processes as its trainer has devices.

    Where torchrun or SLURM has not started them, they are started here. The first one writes, logs
    and returns the metrics; the others return none. An error in one ends all.
    """

    @wraps(run)
    def run_on_all(config: DictConfig) -> dict[str, float]:
        from experiments.running.trainer import new_trainer  # imports torch
        from padim import GradientFreeDDP

        trainer = new_trainer(config)
        strategy, started = trainer.strategy, int(os.environ.get("WORLD_SIZE", "1"))
        if trainer.world_size == 1:
            if started > 1:
                raise ValueError(f"{started} processes share no run with one device: trainer=ddp")
            return run(config)
        if not isinstance(strategy, GradientFreeDDP):
            raise ValueError(
                f"{trainer.world_size} devices take trainer=ddp, ddp_cpu or slurm, which show no"
                " image twice"
            )
        assert strategy.cluster_environment is not None
        if strategy.cluster_environment.creates_processes_externally:
            strategy.setup_environment()
            return _run_in_step(run, config, strategy.global_rank, strategy.local_rank)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise ValueError(
                "a sweep on several devices is started by torchrun: torchrun --nproc-per-node="
                f"{trainer.num_devices} -m experiments.cli VERB -m hydra/launcher=basic ..."
            )
        if trainer.num_nodes > 1:
            raise ValueError("runs on several machines are started by torchrun or by srun")
        _start(trainer.num_devices)
        return {}

    return run_on_all


def _run_in_step(run: Run, config: DictConfig, rank: int, local_rank: int) -> dict[str, float]:
    """This process's part of a run."""
    from padim.distributed import in_step

    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    if config.get("threads"):  # otherwise Lightning shares out the cores
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
    if rank == 0:
        with in_step():
            return run(config)
    logging.disable()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        with in_step():
            return run(config)
    except Exception:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the first one goes on with the next job
            raise
        sys.exit()  # the first one says what is wrong, and its status is that of all


def _start(number: int) -> None:
    """Run this command in a process for each device; exits where one fails, with its status."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    hydra = HydraConfig.get()
    command = ["-P", "-m", "experiments.cli", str(hydra.job.config_name), *sys.argv[1:]]
    folder = hydra.runtime.output_dir.replace("'", r"\'")
    command += [f"hydra.run.dir='{folder}'", "hydra.output_subdir=null"]
    logging.disable()  # what there is to say the first process says
    handlers = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}
    with tempfile.TemporaryDirectory(prefix="padim") as logs:
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=number,
            run_id="padim",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            signals_to_handle="SIGINT,SIGTERM",
        )
        try:
            elastic_launch(settings, sys.executable)(*command)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if rank or failure.exitcode < 0:  # which has told nobody
                sys.exit(f"Error: the process of rank {rank} ended: {failure.message}")
            sys.exit(failure.exitcode)
        except SignalException as stop:  # all processes had it too, and the first has said so
            sys.exit(128 + stop.sigval)
        finally:
            logging.disable(logging.NOTSET)
            for which, handler in handlers.items():
                signal.signal(which, handler)
