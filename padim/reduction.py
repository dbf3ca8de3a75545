"""Which channels of the concatenated feature maps form the patch embedding."""

import logging
import operator
from typing import Any, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Reduction(Protocol):
    """Chooses channels once, before any image is seen."""

    @property
    def config(self) -> dict[str, Any]:
        """Plain description from which `reduction_from_config` builds an equal object."""
        ...

    def channels(self, total: int) -> Tensor:
        """Sorted int64 indices into the `total` channels of all layers."""
        ...


class RandomChannels:
    """d channels drawn at random without replacement (Rd in arXiv 2011.08785, section III.D).

    The draw has its own generator, so it depends on nothing drawn before. Of two draws with the
    same seed the smaller is a subset of the larger.

    Args:
        d: number of channels kept; 100 for ResNet-18 and 550 for Wide ResNet-50-2 in the paper.
        seed: seed of the draw.
        clip: keep all channels where there are fewer than d, which is an error otherwise.
    """

    def __init__(self, d: int = 100, seed: int = 0, clip: bool = False) -> None:
        self.d = operator.index(d)
        self.seed = operator.index(seed)
        self.clip = clip

    @property
    def config(self) -> dict[str, Any]:
        """The kind and the constructor's arguments."""
        return {"kind": "random", "d": self.d, "seed": self.seed, "clip": self.clip}

    def channels(self, total: int) -> Tensor:
        """(d,) sorted channel indices; ValueError if d is not in 1..total, unless clipped."""
        if self.d < 1 or (self.d > total and not self.clip):
            raise ValueError(
                f"reduction.d is {self.d}, but the layers have {total} channels together:"
                f" choose 1 to {total}, or reduction=none to keep all"
            )
        if self.d > total:
            log.info("reduction.d is %d: all %d channels are kept", self.d, total)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(total, generator=generator)[: self.d].sort().values


class AllChannels:
    """Every channel of every layer."""

    @property
    def config(self) -> dict[str, Any]:
        """The kind alone."""
        return {"kind": "none"}

    def channels(self, total: int) -> Tensor:
        """(total,) indices of all channels."""
        return torch.arange(total)


def reduction_from_config(config: dict[str, Any]) -> Reduction:
    """Build the reduction that `config` describes; the inverse of its `config` property."""
    arguments = dict(config)
    kinds: dict[str, type[RandomChannels | AllChannels]] = {
        "random": RandomChannels,
        "none": AllChannels,
    }
    return kinds[arguments.pop("kind")](**arguments)
