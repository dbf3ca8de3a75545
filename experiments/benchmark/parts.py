"""The parts of a benchmark: each yields measurements of a fixture."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from datamodules import LabelledImages
from experiments.benchmark.command import PACKAGES, profile_fit, run_command, run_fit
from experiments.build import new_data
from padim import PaDiM, PatchStatistics, load_checkpoint

BATCHES = (1, 32)
"""Images scored at a time: as they come off a line, and in bulk."""


@dataclass(frozen=True)
class Measurement:
    """The values of one quantity, one a repeat, `of` this project or of a baseline."""

    part: str
    name: str
    unit: str
    values: Sequence[float]
    of: str = "padim"

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    def json(self) -> dict[str, Any]:
        """As plain values."""
        low, high = min(self.values), max(self.values)
        return {**vars(self), "median": self.median, "min": low, "max": high}


class Fixture:
    """The data of a benchmark, and what `padim fit` makes of them in a folder.

    Raises:
        ValueError: the data are no image files.
    """

    def __init__(self, config: DictConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        data = new_data(config.data)
        if not isinstance(data, LabelledImages):
            raise ValueError(f"a benchmark needs image files, not {config.data._target_}")
        self.data = data

    @cached_property
    def jobs(self) -> list[dict[str, float]]:
        """Seconds of each phase of the command, for each repeat."""
        return [profile_fit(self.config, self.folder) for _ in range(self.config.repeats)]

    @cached_property
    def model(self) -> PaDiM:
        """The fitted model, on the device."""
        path = self.folder / "run" / "model.ckpt"
        if not path.exists():
            run_fit(self.config, path.parent, "pictures=0")
        return load_checkpoint(path).to(self.config.device).eval().model

    def time_score(self, batch: int, repeats: int) -> dict[str, list[float]]:
        """Milliseconds to score `batch` images of noise, and for its steps, by turns."""
        model, size = self.model, (batch, 3, *self.data.image_size)
        images = torch.randint(0, 256, size, dtype=torch.uint8, device=self.config.device)
        maps = model.backbone(images)
        tasks: dict[str, Callable[[], object]] = {
            "backbone": partial(model.backbone, images),
            "score": partial(model, images),
            "distances": lambda: model.gaussian(model.embed(maps)),
        }
        wait = torch.cuda.synchronize if self.config.device == "cuda" else lambda: None
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for _ in range(repeats + 1):  # the first is a warm-up
            for name, task in tasks.items():
                wait()
                start = time.perf_counter()
                task()
                wait()
                times[name].append(1e3 * (time.perf_counter() - start))
        return {name: one[1:] for name, one in times.items()}


def measure_job(fixture: Fixture) -> Iterator[Measurement]:
    """A whole `padim fit`, and what it spends its time on."""
    for name in fixture.jobs[0]:
        yield Measurement("job", name, "s", [job[name] for job in fixture.jobs])


def measure_fit(fixture: Fixture) -> Iterator[Measurement]:
    """The fit of a job, and its overhead over decoding and backbone."""
    phases = [[job[name] for name in job if name.startswith("fit: ")] for job in fixture.jobs]
    whole, n = list(map(sum, phases)), len(fixture.data.train_paths)
    yield Measurement("fit", "whole", "s", whole)
    yield Measurement("fit", "images a second", "1/s", [n / seconds for seconds in whole])
    over = [100 * sum(rest) / (decode + backbone) for decode, backbone, *rest in phases]
    yield Measurement("fit", "overhead over decoding and backbone", "%", over)


def measure_metrics(fixture: Fixture) -> Iterator[Measurement]:
    """All metrics of the test images of a job.

    Raises:
        ValueError: there are no test images.
    """
    if not fixture.data.has_test:
        raise ValueError("parts=[metrics] needs test images, and the data have none")
    name = f"of {len(fixture.data.test_samples)} test images"
    yield Measurement("metrics", name, "s", [job["test: metrics"] for job in fixture.jobs])


def measure_score(fixture: Fixture) -> Iterator[Measurement]:
    """Scoring images that are decoded, beside the backbone alone."""
    for batch in BATCHES:
        # Short tasks are repeated more often, until as many images are seen.
        times = fixture.time_score(batch, fixture.config.repeats * max(BATCHES) // batch)
        for name, one in times.items():
            yield Measurement("score", f"batch {batch}: {name}", "ms", one)
        over = ratios(times["score"], times["backbone"])
        yield Measurement("score", f"batch {batch}: score over backbone", "times", over)
        rate = [1e3 * batch / one for one in times["score"]]
        yield Measurement("score", f"batch {batch}: images a second", "1/s", rate)


def measure_memory(fixture: Fixture) -> Iterator[Measurement]:
    """The state, and the peak of a fit alone, for n images and for ten times as many."""
    levels, d = fixture.model.levels, sum(fixture.model.levels.channels)
    packages, paths = run_command(PACKAGES).peak, fixture.data.train_paths
    sizes: dict[str, float] = {
        "state": PatchStatistics.bytes_for(levels),
        "state with dense covariances": 4 * levels.cells[0] * d * (d + 1),
    }
    for n in (len(paths), 10 * len(paths)):
        with tempfile.TemporaryDirectory() as name:
            for i, path in enumerate(islice(cycle(paths), n)):
                shutil.copyfile(path, Path(name, f"{i:06}{path.suffix}"))  # links are twins
            keys = [f"data.normal='{name}'", "data.held_out=0", "save_model=false"]
            groups = {"data": "folder", "threshold": "none"}
            peak = run_fit(fixture.config, fixture.folder / "fit", *keys, **groups).peak
        sizes |= {f"fit of {n}: peak": peak, f"fit of {n}: beyond packages": peak - packages}
    for name, size in sizes.items():
        yield Measurement("memory", name, "MB", [size / 1e6])


def measure_sweep(fixture: Fixture) -> Iterator[Measurement]:
    """The jobs of a grid in one pass, and one by one."""
    keys = (*fixture.config.grid, "pictures=0", "hydra.mode=MULTIRUN")
    rounds = [
        [
            run_fit(fixture.config, fixture.folder / name, *keys, f"hydra/launcher={name}")
            for name in ("one_pass", "basic")
        ]
        for _ in range(fixture.config.repeats)
    ]
    for clock in ("wall", "cpu"):
        one, each = ([getattr(usage, clock) for usage in of] for of in zip(*rounds, strict=True))
        yield Measurement("sweep", f"one pass, {clock} time", "s", one)
        yield Measurement("sweep", f"one by one, {clock} time", "s", each)
        name = f"one by one over one pass, {clock} time"
        yield Measurement("sweep", name, "times", ratios(each, one))


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Quotients of what was measured in the same round."""
    return [value / other for value, other in zip(values, others, strict=True)]


PARTS: Mapping[str, Callable[[Fixture], Iterator[Measurement]]] = {
    "job": measure_job,
    "fit": measure_fit,
    "score": measure_score,
    "memory": measure_memory,
    "sweep": measure_sweep,
    "metrics": measure_metrics,
}
"""By the name in `parts=[...]`."""
