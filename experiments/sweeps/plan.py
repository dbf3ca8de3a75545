"""What a pass for several jobs takes of memory, planned before work starts."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from experiments.running.memory import CURVE_BYTES
from padim import Levels, PaDiM, PatchStatistics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A pass over the images for several jobs.

    Attributes:
        models: by job.
        spilled: whether the features of the test images go to disk.
    """

    models: Mapping[Any, PaDiM]
    spilled: bool


@dataclass(frozen=True)
class _Need:
    """Bytes of the statistics of all channels used with a sample of the images, the features of the
    test images, and the largest job.
    """

    channels: int
    statistics: int
    features: int
    job: int

    @classmethod
    def of(cls, models: Mapping[Any, PaDiM], images: int, binned: bool) -> "_Need":
        sizes: dict[tuple[str, tuple[int, int]], set[int]] = {}
        for model in models.values():
            for layer, chosen in zip(model.backbone.layers, model.channels, strict=True):
                sizes.setdefault((layer.name, layer.grid), set()).update(chosen.tolist())
        levels = Levels([grid for _, grid in sizes], [len(chosen) for chosen in sizes.values()])
        image = 4 * sum(g * d for g, d in zip(levels.cells, levels.channels, strict=True))
        sample = max(m.sample.size if m.sample else 0 for m in models.values())
        height, width = next(iter(models.values())).backbone.image_size
        return cls(
            sum(levels.channels),
            PatchStatistics.bytes_for(levels) + image * sample,
            image * images,
            max(map(_job_bytes, models.values()))
            + (0 if binned else CURVE_BYTES * height * width * images),
        )


def _job_bytes(model: PaDiM) -> int:
    """Statistics and whitening of a job; what it learns from, or projects, it has a copy of."""
    own = 2 * PatchStatistics.bytes_for(model.levels)
    less = model.reduction.learns or model.projection is not None
    return own + PatchStatistics.bytes_for(model.channel_levels) * less


def plan_passes(
    models: Mapping[Any, PaDiM], images: int, limit: float, binned: bool
) -> Iterator[Plan]:
    """As few passes as fit into memory, each said in a line.

    Where only the features are too many they go to disk; where the statistics are too large the
    jobs are split.

    Args:
        models: of the jobs.
        images: to be tested.
        limit: share of the free memory that a pass may take.
        binned: whether pixel metrics are.
    """
    need = _Need.of(models, images, binned)
    free = psutil.virtual_memory().available
    device = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else free
    allowed = limit * free
    resident = need.statistics + need.job
    if len(models) > 1 and (resident > allowed or need.statistics > limit * device):
        jobs = list(models)
        for half in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
            yield from plan_passes({job: models[job] for job in half}, images, limit, binned)
        return
    spilled = resident + need.features > allowed
    log.info(
        "One pass for %d job%s: statistics of %d channels %.2f GB, features of %d test images"
        " %.2f GB%s, largest job %.2f GB; %.1f GB of %.1f GB free may be used",
        *(len(models), "s" * (len(models) > 1), need.channels, need.statistics / 1e9, images),
        *(need.features / 1e9, " on disk" if spilled else "", need.job / 1e9),
        *(allowed / 1e9, free / 1e9),
    )
    yield Plan(models, spilled)
