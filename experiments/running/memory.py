"""What a fit takes of memory, told before it starts."""

import logging
import math
from dataclasses import dataclass

import psutil
import torch

from padim import PaDiM

log = logging.getLogger(__name__)

CURVE_BYTES = 26
"""Bytes a pixel of the test images that exact pixel metrics take while they are computed."""


@dataclass(frozen=True)
class FitMemory:
    """Bytes that a fit and its test take, beside network and batches.

    Args:
        channels: of the statistics.
        statistics: their size, which is that of the factored covariances as well.
        sample: embeddings kept for the threshold and for shrinkage.
        metrics: pixel scores while their metrics are computed; never on a GPU.
    """

    channels: int
    statistics: int
    sample: int
    metrics: int

    @classmethod
    def of(cls, model: PaDiM, test_images: int, binned: bool) -> "FitMemory":
        """What a model will take.

        Args:
            model: before its fit.
            test_images: number of them.
            binned: whether pixel metrics are.
        """
        levels = model.levels
        image = 4 * sum(g * d for g, d in zip(levels.cells, levels.channels, strict=True))
        pixels = test_images * math.prod(model.backbone.image_size)
        return cls(
            sum(levels.channels),
            model.statistics.nbytes,
            image * (model.sample.size if model.sample else 0),
            0 if binned else CURVE_BYTES * pixels,
        )

    def on_device(self, in_place: bool) -> int:
        """Bytes on the device that fits."""
        return self.statistics * (1 if in_place else 2) + self.sample

    def __str__(self) -> str:
        parts = {
            f"statistics of {self.channels} channels": self.statistics,
            "their covariances": self.statistics,
            "images kept for the threshold or shrinkage": self.sample,
            "pixel metrics": self.metrics,
        }
        return ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items() if size)


def plan_memory(need: FitMemory, device: torch.device) -> bool:
    """Say what a fit takes, and whether its covariances have to be factored in place.

    That halves what is needed, and the model cannot be saved afterwards.

    Raises:
        ValueError: the memory is too small all the same; it says what to change.
    """
    main = psutil.virtual_memory().available
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else main
    beside = 0 if device.type == "cuda" else need.metrics
    log.info("Memory: %s; %.1f GB are free", need, free / 1e9)
    if device.type == "cuda" and need.metrics > main:
        raise ValueError(_too_small(need.metrics, main, "pixel metrics", "metrics.binned=true"))
    if need.on_device(in_place=False) + beside <= free:
        return False
    least = need.on_device(in_place=True) + beside
    if least > free:
        raise ValueError(_too_small(least, free, str(need), _remedy(need, free, beside)))
    log.info("The covariances take the place of the statistics, as there is no room for both")
    return True


def _too_small(need: int, free: int, what: str, remedy: str) -> str:
    return (
        f"the fit takes {need / 1e9:.1f} GB at least ({what}), and {free / 1e9:.1f} GB are free:"
        f" choose {remedy}"
    )


def _remedy(need: FitMemory, free: int, beside: int) -> str:
    """What would make it fit, the largest part first."""
    if need.metrics and beside >= max(need.statistics, need.sample):
        return "metrics.binned=true, which counts pixel scores in bins"
    if need.sample > need.statistics:
        return "threshold.images, of which there are embeddings, lower, or threshold=none"
    # Statistics grow with the square of the channels, and the sample with them.
    left = max(0, free - beside)
    channels = int(need.channels * min(1.0, math.sqrt(left / need.on_device(in_place=True))))
    return f"reduction.d of about {channels}, coarser backbone.layers, or a smaller data.crop"
