"""Reduction of the concatenated feature maps to the channels, or projections, of the embedding."""

import logging
import operator
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

ORDERS = ("most", "least")


class Reduction:
    """Say what of the channels of all layers is kept; all of it, unless a subclass says less.

    To reduce in another way, subclass it and override `channels`, `projection` or both; or `learn`,
    for what follows from the statistics. What is kept stands in a model's state dict, so that a
    checkpoint is read back without the subclass.

    ```python
    class EverySecond(Reduction):
        def channels(self, total: int) -> Tensor:
            return torch.arange(0, total, 2)
    ```

    Attributes:
        kind: name of the class in a configuration; its path where it is none of ours.
        learns: whether `learn` has to be asked when the statistics are complete. Until then all
            channels are accumulated.
    """

    kind = ""
    learns = False

    @property
    def config(self) -> dict[str, Any]:
        """The kind and the attributes that are plain values.

        For our own classes these are the constructor's arguments, from which
        `reduction_from_config` builds an equal object.
        """
        kind = self.kind or f"{type(self).__module__}.{type(self).__qualname__}"
        plain = {k: v for k, v in vars(self).items() if isinstance(v, str | int | float | None)}
        return {"kind": kind, **plain}

    def channels(self, total: int) -> Tensor:
        """Sorted int64 indices into the `total` channels of all layers."""
        return torch.arange(total)

    def projection(self, total: int) -> Tensor | None:
        """(number of channels, d) float32, applied to the channels kept; None for none."""
        return None

    def learn(self, covariance: Tensor) -> "Reduction":
        """The reduction that a covariance (D, D) of the channels, pooled over positions, gives."""
        raise NotImplementedError


class AllChannels(Reduction):
    """Every channel of every layer."""

    kind = "none"


class ChosenChannels(Reduction):
    """Channels given by their indices.

    Args:
        indices: sorted, into the channels of all layers.
    """

    def __init__(self, indices: Tensor) -> None:
        self.indices = indices

    @classmethod
    def of_layers(cls, chosen: Sequence[Tensor], counts: Sequence[int]) -> "ChosenChannels":
        """From sorted indices into the channels of each layer, which has `counts` of them."""
        starts = accumulate(counts, initial=0)
        return cls(torch.cat([part + start for part, start in zip(chosen, starts, strict=False)]))

    def channels(self, total: int) -> Tensor:
        """The indices."""
        return self.indices


class Projection(Reduction):
    """A projection given by its matrix.

    Args:
        matrix: (D, d), columns orthonormal.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def projection(self, total: int) -> Tensor:
        """The matrix."""
        return self.matrix


class _Reduced(Reduction):
    """To d dimensions.

    Args:
        d: number of dimensions kept.
        clip: keep as many as there are channels where those are fewer, which is an error otherwise.
    """

    def __init__(self, d: int, clip: bool) -> None:
        self.d = operator.index(d)
        self.clip = clip

    def dimensions(self, total: int) -> int:
        """d; ValueError if it is not in 1..total, unless clipped."""
        if self.d < 1 or (self.d > total and not self.clip):
            raise ValueError(
                f"reduction.d is {self.d}, but the layers have {total} channels together:"
                f" choose 1 to {total}, or reduction=none to keep all"
            )
        if self.d > total:
            log.info("reduction.d is %d: all %d channels are kept", self.d, total)
        return min(self.d, total)


class RandomChannels(_Reduced):
    """d channels chosen at random without replacement (Rd in arXiv 2011.08785, section III.D).

    The choice has its own generator, so it depends on no random numbers before. Of two with the
    same seed the smaller is a subset of the larger.

    Args:
        d: number of channels kept; 100 for ResNet-18 and 550 for Wide ResNet-50-2 in the paper.
        seed: of the random numbers.
        clip: keep all channels where there are fewer than d, which is an error otherwise.

    >>> RandomChannels(d=3, seed=1).channels(9)
    tensor([0, 4, 6])
    """

    kind = "random"

    def __init__(self, d: int = 100, seed: int = 0, clip: bool = False) -> None:
        super().__init__(d, clip)
        self.seed = operator.index(seed)

    def channels(self, total: int) -> Tensor:
        """(d,) sorted channel indices; ValueError if d is not in 1..total, unless clipped."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(total, generator=generator)[: self.dimensions(total)].sort().values


class OrthogonalProjection(_Reduced):
    """Projection on d orthonormal directions, uniformly distributed over all such.

    Of two with the same seed the smaller is part of the larger.

    Args:
        d: number of directions.
        seed: of the random numbers.
        clip: as many as there are channels where those are fewer, which is an error otherwise.
    """

    kind = "orthogonal"

    def __init__(self, d: int = 100, seed: int = 0, clip: bool = False) -> None:
        super().__init__(d, clip)
        self.seed = operator.index(seed)

    def projection(self, total: int) -> Tensor:
        """(total, d)."""
        generator = torch.Generator().manual_seed(self.seed)
        # Drawn direction by direction, so that a larger d adds to a smaller one.
        directions = torch.randn(
            self.dimensions(total), total, dtype=torch.float64, generator=generator
        )
        basis, triangle = torch.linalg.qr(directions.T)
        # QR leaves the signs open; a positive diagonal makes the distribution uniform (Mezzadri,
        # arXiv math-ph/0609050).
        uniform: Tensor = basis * triangle.diagonal().sign()
        return uniform.float()


class _Ordered(_Reduced):
    """To what has most, or least, variance.

    Args:
        d: number of dimensions kept.
        order: "most" or "least" variance first.
        clip: as many as there are channels where those are fewer, which is an error otherwise.
    """

    learns = True

    def __init__(self, d: int = 100, order: str = "most", clip: bool = False) -> None:
        super().__init__(d, clip)
        if order not in ORDERS:
            raise ValueError(f"reduction.order is {order!r}; choose one of {', '.join(ORDERS)}")
        self.order = order

    def channels(self, total: int) -> Tensor:
        """All, until `learn` knows better; ValueError if d is not in 1..total, unless clipped."""
        self.dimensions(total)
        return super().channels(total)

    def first(self, variances: Tensor) -> Tensor:
        """Indices of the d variances that come first."""
        ranks = torch.sort(variances, descending=self.order == "most", stable=True).indices
        return ranks[: self.dimensions(len(variances))]


class PrincipalComponents(_Ordered):
    """PCA: projection on the d eigenvectors of most, or least, variance.

    Of the covariance about the mean of each position, averaged over the positions: what the
    Gaussians describe is the deviation from the mean of the place.

    Args:
        d: number of components; 100 and 200 in Table II of arXiv 2011.08785.
        order: "most" variance first (PCA), or "least" (Rippel et al., arXiv 2005.14140).
        clip: as many as there are channels where those are fewer, which is an error otherwise.
    """

    kind = "pca"

    def learn(self, covariance: Tensor) -> Projection:
        """The eigenvectors of a covariance (D, D)."""
        variances, vectors = torch.linalg.eigh(covariance)
        return Projection(vectors[:, self.first(variances)].float())


class VarianceChannels(_Ordered):
    """The d channels of most, or least, variance about the mean of their position.

    Args:
        d: number of channels.
        order: "most" or "least" variance first.
        clip: keep all channels where there are fewer than d, which is an error otherwise.
    """

    kind = "variance"

    def learn(self, covariance: Tensor) -> ChosenChannels:
        """The channels that the diagonal of a covariance (D, D) puts first."""
        return ChosenChannels(self.first(covariance.diagonal()).sort().values.cpu())


class RecordedReduction(Reduction):
    """Stand for a class that is not ours in a model that is read back; its state dict has the rest.

    Args:
        config: of the reduction that the model was fitted with.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    @property
    def config(self) -> dict[str, Any]:
        """Of the reduction that the model was fitted with."""
        return dict(self._config)


OURS: dict[str, type[Reduction]] = {
    kind.kind: kind
    for kind in (
        *(AllChannels, RandomChannels, OrthogonalProjection),
        *(PrincipalComponents, VarianceChannels),
    )
}
"""By their kind, the reductions that follow from their config."""


def reduction_from_config(config: dict[str, Any]) -> Reduction:
    """Build the reduction that `config` describes; a `RecordedReduction` if it is not one of ours.

    >>> reduction_from_config({"kind": "random", "d": 3, "seed": 1}).channels(9)
    tensor([0, 4, 6])
    """
    arguments = dict(config)
    ours = OURS.get(arguments.pop("kind", ""))
    return ours(**arguments) if ours else RecordedReduction(config)
