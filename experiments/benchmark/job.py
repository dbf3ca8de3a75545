"""A fit, and what may follow it, in a process of its own, so that its memory can be told."""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from subprocess import PIPE, STDOUT, run
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from experiments.benchmark.drivers.usage import JobUsage
from experiments.benchmark.figures import in_turn
from experiments.benchmark.subject import Subject
from experiments.running.allocation import keep_freed_memory
from experiments.running.trainer import open_trainer
from padim import LitPaDiM, PaDiM


def run_job(config: DictConfig, **options: Any) -> dict[str, Any]:
    """The report of a job of this project (see `main`).

    Args:
        config: of the benchmark.
        options: keys to replace, and `evaluate`, `folder` and `latencies` of the job.
    """
    keys = {key: options.pop(key) for key in list(options) if key in config}
    plain: Any = OmegaConf.to_container(config, resolve=True)
    command = [sys.executable, "-m", "experiments.benchmark.job"]
    return run_described(command, {"config": plain | keys, **options})


def run_described(command: Sequence[str], description: Mapping[str, Any]) -> dict[str, Any]:
    """Run a program that reads a description and writes a report: `command DESCRIPTION REPORT`.

    Both are JSON. The description says when the program was `started`.

    Raises:
        ChildProcessError: the program fails; with its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "description.json"), Path(folder, "report.json")
        files[0].write_text(json.dumps({**description, "started": time.time()}))
        done = run([*command, *map(str, files)], stdout=PIPE, stderr=STDOUT, text=True)
        if done.returncode:
            output = done.stdout.strip() or f"exit status {done.returncode}"
            raise ChildProcessError(f"{' '.join(command)} failed: {output.splitlines()[-1]}")
        report: dict[str, Any] = json.loads(files[1].read_text())
    return report


def main(description: Path, report: Path) -> None:
    """Do what a description says.

    It holds the `config` of a benchmark. With `evaluate`, the model is written into `folder` and
    measured on the test images. With `latencies`, distances and scores of one image are timed so
    often.

    The report holds `start_s`, seconds until Python and its packages were there; `fit_s`, `test_s`
    and `job_s`, both; `cpu_s` of the job; `peak_bytes`; `added_bytes`, the peak beyond what the
    packages take, and `fit_bytes`, that of the fit alone; `gpu_bytes`; `state_bytes` and
    `file_bytes`; `metrics`; `distances_s` and `score_s`.
    """
    keep_freed_memory()  # as the command does
    told = json.loads(description.read_text())
    usage = JobUsage(told["started"])
    subject = Subject(OmegaConf.create(told["config"]))
    module = subject.fit()
    usage.fitted()
    evaluated = _evaluate(subject, module, Path(told["folder"])) if told.get("evaluate") else {}
    found = {
        **usage.report(),
        "gpu_bytes": torch.cuda.max_memory_allocated() if subject.device.type == "cuda" else None,
        "state_bytes": module.model.statistics.nbytes,
        **evaluated,
    }
    if repeats := told.get("latencies"):
        found |= _latencies(subject, module, repeats)
    report.write_text(json.dumps(found))


def distances(model: PaDiM, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Distances of feature maps that are at hand, on the model's grid."""
    return model.gaussian(model.embed(maps))


def _evaluate(subject: Subject, module: LitPaDiM, folder: Path) -> dict[str, Any]:
    """Write the model and measure it."""
    path = folder / "model.ckpt"
    with open_trainer(subject.config, None, progress=False) as trainer:
        trainer.strategy.connect(module)
        trainer.save_checkpoint(path)
        metrics = trainer.test(module, datamodule=subject.data, verbose=False)[0]
    return {"metrics": dict(metrics), "file_bytes": path.stat().st_size}


def _latencies(subject: Subject, module: LitPaDiM, repeats: int) -> dict[str, list[float]]:
    """Seconds for the distances of one image, its feature maps at hand, and for its score."""
    model = module.to(subject.device).eval().model
    image = subject.images(1)
    maps = model.backbone(image)
    tasks = {"distances": partial(distances, model, maps), "score": partial(model, image)}
    times = in_turn(tasks, repeats, subject.device)
    return {f"{name}_s": times[name].wall for name in tasks}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
