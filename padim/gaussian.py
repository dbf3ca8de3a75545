"""The Gaussian of every patch position, factored level by level."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from padim.factorisation import (
    LevelBlocks,
    covariances,
    each_chunk,
    inner_products,
    pooled_covariance,
    separate_layers,
    whiten,
    whitened,
)
from padim.levels import Levels
from padim.neighbours import Neighbourhood, Offset
from padim.precision import full_precision
from padim.statistics import PatchStatistics

AUTO = "auto"

ENSEMBLES = (None, "sum")


class PatchGaussian(nn.Module):
    """Mahalanobis distance of patch embeddings to the Gaussian of their position.

    At each fine position the joint covariance over all levels is
    Sigma = (1 - s) S + s T + eps I, with S = scatter / (n - 1) and T the mean of S over all
    positions; s = 0 in the paper (arXiv 2011.08785, section III.B). Ordered from the coarse to the
    fine dimensions, its Cholesky factor has blocks that are shared by all positions under a coarse
    cell, so level l is whitened by

        w_l = V_l (x_l - mu_l) - sum_{m coarser} A_lm w_m,   V_l = L_ll^-1,   A_lm = L_ll^-1 L_lm

    and the squared distance is the sum of |w_l|^2. This is exact, not an approximation.

    Args:
        eps: regularisation added once to the diagonal; 0.01 in the paper.
        shrinkage: s, in [0, 1], or "auto" to have it chosen (see `choose_shrinkage`).
        ensemble: None for the joint Gaussian of all layers, or "sum" for a Gaussian of each layer
            alone, whose maps are summed (Table I of the paper).
        neighbours: r, positions of the finest grid. A patch's distance is the least under the
            Gaussians of all positions within r rows and columns of its own; 0 in the paper. The
            statistics do not depend on it.

    Raises:
        ValueError: an argument is outside its range.

    >>> statistics = PatchStatistics(Levels([(1, 1)], [2]))
    >>> statistics.update([torch.tensor([[[0.0, 2, 0, 2], [0, 0, 2, 2]]])])  # variances 4/3
    >>> gaussian = PatchGaussian(eps=1.0)
    >>> gaussian.fit(statistics)
    >>> gaussian([torch.tensor([[[1.0], [4.0]]])])  # 3 from the mean: 3 / sqrt(4/3 + 1)
    [tensor([[[1.9640]]])]

    Buffers:
        coefficient: s, of shrinkage, as used; part of the state dict. NaN while it is to be
            chosen.
        mean_{l}: (G_l, d_l).
        whitening_{l}_{m}: (G_l, d_l, d_m), V_l for m = l and A_lm for m coarser. These follow from
            the statistics and are not part of the state dict.
    """

    coefficient: Tensor

    def __init__(
        self,
        eps: float = 0.01,
        shrinkage: float | str = 0.0,
        ensemble: str | None = None,
        neighbours: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < eps < math.inf:
            raise ValueError(f"gaussian.eps must be above 0 and finite, got {eps}")
        if shrinkage != AUTO and (isinstance(shrinkage, str) or not 0 <= shrinkage <= 1):
            raise ValueError(f"gaussian.shrinkage must be auto or within 0 to 1, got {shrinkage!r}")
        if ensemble not in ENSEMBLES:
            raise ValueError(f"gaussian.ensemble must be null or sum, got {ensemble!r}")
        if ensemble and shrinkage == AUTO:
            raise ValueError(
                "gaussian.shrinkage=auto is chosen for the joint Gaussian of all layers: give a"
                " number with gaussian.ensemble=sum"
            )
        if ensemble and neighbours:
            raise ValueError(
                "gaussian.neighbours is of the joint Gaussian of all layers: leave it out with"
                " gaussian.ensemble=sum"
            )
        self.eps = eps
        self.neighbours = neighbours
        self.shrinkage = shrinkage
        self.ensemble = ensemble
        self.register_buffer(
            "coefficient", torch.tensor(float("nan") if shrinkage == AUTO else float(shrinkage))
        )
        self.levels: Levels | None = None
        self.around: Neighbourhood | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "eps": self.eps,
            "shrinkage": self.shrinkage,
            "ensemble": self.ensemble,
            "neighbours": self.neighbours,
        }

    @property
    def fitted(self) -> bool:
        """Whether `fit` has been called."""
        return self.levels is not None

    @full_precision
    def fit(self, statistics: PatchStatistics) -> None:
        """Factor the covariances of the statistics.

        Raises:
            ValueError: no image has been seen, a covariance is not positive definite, or the
                shrinkage is still to be chosen.
        """
        if statistics.count == 0:
            raise ValueError("no image has been seen: update the model with normal images first")
        if self.coefficient.isnan():
            raise ValueError("gaussian.shrinkage is auto, and has not been chosen yet")
        levels, coefficient = statistics.levels, self.coefficient.item()
        for level in range(len(levels)):
            self._set(f"mean_{level}", statistics.mean(level).clone())
        for pair in levels.pairs():
            empty = torch.empty_like(statistics.scatter(*pair))
            self._set(f"whitening_{pair[0]}_{pair[1]}", empty)
        target = pooled_covariance(statistics) if coefficient else {}

        # In float32 the rounding of the factorisation would dominate the error of the distances.
        @torch.no_grad()
        def factor(cells: Tensor) -> None:
            covariance = covariances(statistics, cells)
            for pair, pooled in target.items():
                covariance[pair].lerp_(pooled, coefficient)
            if self.ensemble:
                separate_layers(covariance, levels.counts)
            for pair, block in whiten(covariance, self.eps).items():
                whole = self.whitening(*pair).unflatten(0, (levels.cells[-1], -1))
                whole[cells] = block.unflatten(0, (len(cells), -1)).float()

        each_chunk(statistics, torch.arange(levels.cells[-1]), factor)
        self.levels = levels
        self.around = Neighbourhood(levels, self.neighbours)

    def whitening(self, fine: int, coarse: int) -> Tensor:
        """(G_fine, d_fine, d_coarse) V_l for equal levels, A_lm otherwise."""
        return self.get_buffer(f"whitening_{fine}_{coarse}")

    def level_distances(self, embedding: list[Tensor]) -> list[Tensor]:
        """Squared distance of each level given the coarser ones, on the level's own grid.

        Args:
            embedding: one (G_l, d_l, B) tensor a level.

        Returns:
            One (G_l, B) tensor a level. Repeated on the finest grid they sum to the squared
            Mahalanobis distance, so they show at which semantic level an anomaly lies.
        """
        return [inner_products(w, w) for w in self._whitened(embedding)]

    def forward(self, embedding: list[Tensor]) -> list[Tensor]:
        """Mahalanobis distances, (B, H, W) each: their sum is the distance of the image's patches.

        Args:
            embedding: one (G_l, d_l, B) tensor a level.

        Returns:
            One tensor on the finest grid; of an ensemble one a layer, on the layer's own grid.
        """
        if not self.ensemble:
            terms = self.terms(embedding)
            assert self.levels is not None
            return [self.levels.to_grid(sum(terms[1:], terms[0])).sqrt()]
        white = self._whitened(embedding)
        assert self.levels is not None
        return [
            self.levels.to_grid(inner_products(part, part), level).sqrt()
            for level, w in enumerate(white)
            for part in w.split(self.levels.counts[level], dim=1)
        ]

    def terms(self, embedding: list[Tensor]) -> list[Tensor]:
        """Each level's part of the squared distances, repeated on the finest grid: (G_0, B) each.

        With neighbours they are those of the nearest Gaussian.
        """
        if not self.neighbours:
            squared = self.level_distances(embedding)
            assert self.levels is not None
            return [self.levels.spread(s, level, 0) for level, s in enumerate(squared)]
        return list(self._nearest(embedding))

    @full_precision
    def _nearest(self, embedding: list[Tensor]) -> Tensor:
        whitening = self._blocks()
        around = self.around
        assert around is not None

        def centred(level: int, offset: Offset) -> Tensor:
            x = around.gathered(embedding[level], level, (-offset[0], -offset[1]))
            return x.sub_(self.get_buffer(f"mean_{level}").unsqueeze(-1))

        return around.nearest(around.compare(whitening, centred))

    @full_precision
    def _whitened(self, embedding: list[Tensor]) -> list[Tensor]:
        whitening = self._blocks()
        centred = [
            x - self.get_buffer(f"mean_{level}").unsqueeze(-1) for level, x in enumerate(embedding)
        ]
        return whitened(whitening, centred)

    def _blocks(self) -> LevelBlocks:
        if self.levels is None:
            raise RuntimeError("the Gaussian is not fitted: call finalize() after the last update")
        return {pair: self.whitening(*pair) for pair in self.levels.pairs()}

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (old := f"{prefix}amount") in state:  # its name in version 0.1.0
            state[f"{prefix}coefficient"] = state.pop(old)
        super()._load_from_state_dict(state, prefix, *rest)

    def _set(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)
