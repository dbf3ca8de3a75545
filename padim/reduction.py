"""Which channels of the concatenated feature maps, or projections of them, form the embedding."""

import logging
import operator
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

ORDERS = ("most", "least")


class Reduction:
    """Says what of the channels of all layers is kept; all of it, unless a subclass says less.

    Attributes:
        learns: whether `learn` has to be asked when the statistics are complete. Until then all
            channels are accumulated.
    """

    learns = False

    @property
    def config(self) -> dict[str, Any]:
        """Plain description from which `reduction_from_config` builds an equal object."""
        raise NotImplementedError

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

    @property
    def config(self) -> dict[str, Any]:
        """The kind alone."""
        return {"kind": "none"}


class ChosenChannels(Reduction):
    """Channels given by their indices.

    Args:
        indices: sorted, into the channels of all layers.
    """

    def __init__(self, indices: Tensor) -> None:
        self.indices = indices

    @property
    def config(self) -> dict[str, Any]:
        """The kind and the indices."""
        return {"kind": "chosen", "indices": self.indices.tolist()}

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

    kind: str

    def __init__(self, d: int, clip: bool) -> None:
        self.d = operator.index(d)
        self.clip = clip

    @property
    def config(self) -> dict[str, Any]:
        """The kind and the constructor's arguments."""
        return {"kind": self.kind, **vars(self)}

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
    """d channels drawn at random without replacement (Rd in arXiv 2011.08785, section III.D).

    The draw has its own generator, so it depends on nothing drawn before. Of two draws with the
    same seed the smaller is a subset of the larger.

    Args:
        d: number of channels kept; 100 for ResNet-18 and 550 for Wide ResNet-50-2 in the paper.
        seed: seed of the draw.
        clip: keep all channels where there are fewer than d, which is an error otherwise.
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

    Of two draws with the same seed the smaller is part of the larger.

    Args:
        d: number of directions.
        seed: seed of the draw.
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
        return (basis * triangle.diagonal().sign()).float()


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


def reduction_from_config(config: dict[str, Any]) -> Reduction:
    """Build the reduction that `config` describes; the inverse of its `config` property."""
    arguments = dict(config)
    kind = arguments.pop("kind")
    if kind == "none":
        return AllChannels()
    kinds: tuple[type[_Reduced], ...] = (
        *(RandomChannels, OrthogonalProjection),
        *(PrincipalComponents, VarianceChannels),
    )
    return {k.kind: k for k in kinds}[kind](**arguments)
