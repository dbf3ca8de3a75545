"""The parts of a benchmark: each measures a model alone, and yields figures."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from subprocess import PIPE, STDOUT, run

from experiments.benchmark.figures import Figure, in_turn, ratios
from experiments.benchmark.job import distances, run_job
from experiments.benchmark.subject import Subject
from padim import ImageMetrics, PatchStatistics, PixelMetrics

BATCHES = (1, 32)
"""Images scored at a time: as they come off a line, and in bulk."""


def measure_fit(subject: Subject) -> Iterator[Figure]:
    """A fit, what it spends its time on, and what it adds to decoding and backbone."""
    config, n = subject.config, len(subject.data.train_paths)
    splits: list[dict[str, float]] = []

    def fit() -> None:
        splits.append(subject.fit().seconds)

    tasks = {"fit": fit, "without": subject.decode_and_embed}
    times = in_turn(tasks, config.repeats, subject.device)
    del splits[0]  # of the warm-up
    whole = times["fit"].wall
    yield Figure("fit", "images a second", "1/s", [n / seconds for seconds in whole])
    yield Figure("fit", "whole", "s", whole)
    phases = ("decode", "backbone", "statistics", "covariances")
    for name in phases:
        yield Figure("fit", name, "s", [split[name] for split in splits])
    rest = [
        seconds - sum(split[name] for name in phases)
        for seconds, split in zip(whole, splits, strict=True)
    ]
    yield Figure("fit", "rest (Lightning)", "s", rest)
    added = [split["statistics"] + split["covariances"] for split in splits]
    needed = [split["decode"] + split["backbone"] for split in splits]
    yield Figure("fit", "added to decode + backbone", "%", percent(ratios(added, needed)))
    for clock in ("wall", "cpu"):
        over = ratios(getattr(times["fit"], clock), getattr(times["without"], clock))
        added = percent([ratio - 1 for ratio in over])
        yield Figure("fit", f"added to a bare loop of both, {clock} time", "%", added)
    model = subject.fitted.model
    if model.calibration:
        times = in_turn({"threshold": model.calibrate}, config.repeats, subject.device)
        yield Figure("fit", "threshold, apart", "s", times["threshold"].wall)


def measure_score(subject: Subject) -> Iterator[Figure]:
    """Scoring images that are decoded, beside the backbone alone."""
    model, images = subject.fitted.model, subject.images(max(BATCHES))
    for batch in BATCHES:
        part = images[:batch]
        maps = model.backbone(part)
        tasks: dict[str, Callable[[], object]] = {
            "backbone": partial(model.backbone, part),
            "score": partial(model, part),
            "distances": partial(distances, model, maps),
        }
        # Short tasks are repeated more often, until as many images are seen.
        repeats = subject.config.repeats * max(BATCHES) // batch
        times = {name: t.wall for name, t in in_turn(tasks, repeats, subject.device).items()}
        for name, seconds in times.items():
            yield Figure("score", f"batch {batch}: {name}", "ms", [1000 * s for s in seconds])
        ratio = ratios(times["score"], times["backbone"])
        yield Figure("score", f"batch {batch}: score over backbone", "times", ratio)
        rate = [batch / seconds for seconds in times["score"]]
        yield Figure("score", f"batch {batch}: images a second", "1/s", rate)


def measure_memory(subject: Subject) -> Iterator[Figure]:
    """The state, and the most that a fit holds, for n images and for ten times as many."""
    statistics = subject.fitted.model.statistics
    levels = statistics.levels
    state, d = PatchStatistics.bytes_for(levels), sum(levels.channels)
    dense = 4 * levels.cells[0] * d * (d + 1)
    yield Figure("memory", "state", "MB", [state / 1e6])
    yield Figure("memory", "state with dense covariances", "MB", [dense / 1e6])
    n = len(subject.data.train_paths)
    for images in (n, 10 * n):
        report = run_job(subject.config, images=images)
        peaks = {
            "peak": report["peak_bytes"],
            "beyond packages": report["added_bytes"],
            "GPU": report["gpu_bytes"],
        }
        for name, peak in peaks.items():
            if peak is not None:
                yield Figure("memory", f"fit of {images}: {name}", "MB", [peak / 1e6])


def measure_sweep(subject: Subject, overrides: Sequence[str]) -> Iterator[Figure]:
    """The jobs of a grid in one pass, and one by one: each the command as a user gives it.

    Args:
        subject: gives the configuration.
        overrides: that make `padim fit` of it.

    Raises:
        ChildProcessError: the command fails; with its last line.
    """
    config = subject.config
    tasks = {name: partial(_sweep, config.grid, overrides, name) for name in ("one_pass", "basic")}
    times = in_turn(tasks, config.repeats, warm_up=False)
    names = {"one_pass": "one pass", "basic": "one by one"}
    for clock in ("wall", "cpu"):
        seconds = {name: getattr(times[name], clock) for name in tasks}
        for name, title in names.items():
            yield Figure("sweep", f"{title}, {clock} time", "s", seconds[name])
        saved = ratios(seconds["basic"], seconds["one_pass"])
        yield Figure("sweep", f"one by one over one pass, {clock} time", "times", saved)


def _sweep(grid: Sequence[str], overrides: Sequence[str], launcher: str) -> None:
    program = "from experiments.cli import main; main()"
    with tempfile.TemporaryDirectory() as folder:
        options = [f"hydra/launcher={launcher}", f"hydra.sweep.dir={folder}"]
        command = [sys.executable, "-c", program, "fit", "-m", *overrides, *grid, *options]
        done = run(command, stdout=PIPE, stderr=STDOUT, text=True)
    if done.returncode:
        raise ChildProcessError(f"the sweep failed: {done.stdout.strip().splitlines()[-1]}")


def measure_metrics(subject: Subject) -> Iterator[Figure]:
    """All metrics of the test images, whose maps are at hand.

    Raises:
        ValueError: there are no test images, or masks are not of their size.
    """
    data, model = subject.data, subject.fitted.model
    batches = list(data.test_dataloader()) if data.has_test else []
    if not batches or "window" in batches[0]:
        raise ValueError(
            "parts=metrics needs test images with masks of their size: data.resolution=crop, no"
            " letterbox; or leave it out, parts=[fit,score,memory,sweep]"
        )
    predictions = [model(batch["image"].to(subject.device)) for batch in batches]

    def measure() -> None:
        image_metrics = ImageMetrics()
        pixel_metrics = PixelMetrics().to(subject.device)
        for batch, prediction in zip(batches, predictions, strict=True):
            image_metrics.update(prediction.scores, batch["label"])
            pixel_metrics.update(prediction.maps, batch["mask"].to(subject.device))
        image_metrics.compute()
        pixel_metrics.compute()

    times = in_turn({"metrics": measure}, subject.config.repeats, subject.device)["metrics"]
    height, width = data.image_size
    name = f"of {len(data.test_samples)} maps, {height} x {width}"
    yield Figure("metrics", name, "s", times.wall)


def percent(shares: Sequence[float]) -> list[float]:
    """Shares in percent."""
    return [100 * share for share in shares]
