"""The shrinkage coefficient of the covariances, chosen from the normal images alone."""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from padim.factorisation import (
    deviations,
    each_chunk,
    left_out,
    pooled_covariance,
    squared_terms,
    whiten,
)
from padim.levels import Grid
from padim.statistics import PatchStatistics

TOLERANCE = 0.02
"""The root of the coefficient is chosen to this accuracy; the likelihood is flat over more."""

SMALLEST_LATTICE = 16
"""Cells that are enough to choose the coefficient from."""


@dataclass(frozen=True)
class ShrinkageChoice:
    """The shrinkage coefficient and why.

    Attributes:
        coefficient: of shrinkage, where the curve is lowest.
        curve: coefficient -> mean leave-one-out negative log likelihood of a patch, in nats, in
            ascending order; empty where there are too few images to leave one out.
    """

    coefficient: float
    curve: dict[float, float]

    @property
    def gain(self) -> float:
        """Nats a patch gained over no shrinkage."""
        return self.curve[0.0] - min(self.curve.values()) if self.curve else 0.0


def choose_shrinkage(
    statistics: PatchStatistics, sample: list[Tensor], eps: float
) -> ShrinkageChoice:
    """The coefficient of least leave-one-out negative log likelihood, by a bounded scalar search.

    Args:
        statistics: of all training images.
        sample: embedding of some of them, one (G_l, d_l, B) tensor a level.
        eps: as of the Gaussian.
    """
    if statistics.count < 3:  # what is left when one is left out has no covariance
        return ShrinkageChoice(1.0, {})
    cells = lattice(statistics.levels.grids[-1])
    curve: dict[float, float] = {}

    def measure(coefficient: float) -> float:
        coefficient = float(coefficient)
        curve[coefficient] = leave_one_out_nll(statistics, sample, eps, coefficient, cells)
        return curve[coefficient]

    measure(0.0)
    # Over the root of the coefficient the curve is nearer to a parabola, which saves evaluations.
    minimize_scalar(
        lambda root: measure(root**2), bounds=(0, 1), method="bounded", options={"xatol": TOLERANCE}
    )
    best = min(curve, key=lambda coefficient: curve[coefficient])
    return ShrinkageChoice(best, dict(sorted(curve.items())))


def lattice(grid: Grid) -> Tensor:
    """Every fourth cell of a (height, width) grid, none below or beside another.

    Evenly spread cells give the coefficient of all cells to 0.015, random ones only to 0.09, at a
    quarter of the time. A small grid keeps all its cells.
    """
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    chosen = ((rows + 2 * columns) % 4 == 0).flatten()
    return (chosen if chosen.sum() >= SMALLEST_LATTICE else chosen | True).nonzero()[:, 0]


def leave_one_out_nll(
    statistics: PatchStatistics,
    sample: list[Tensor],
    eps: float,
    coefficient: float,
    cells: Tensor | None = None,
) -> float:
    """Mean negative log likelihood of training patches under the model fitted without their image.

    In closed form, in the terms of `leave_one_out` with q = v^T Sigma*^-1 v:

        q' = (n/(n - 1))^2 q / (1 - b q),   log det Sigma' = log det Sigma* + log(1 - b q).

    Only the change of the pooled covariance T by one of its many patches an image is neglected.

    Args:
        statistics: of n images, 3 at least.
        sample: the embedding of some of them, one (G_l, d_l, B) tensor a level.
        eps: as of the Gaussian.
        coefficient: of shrinkage.
        cells: of the coarsest level, to look at; all by default.

    Returns:
        Nats a fine patch, all levels together.
    """
    n, levels = int(statistics.count), statistics.levels
    coarsest = levels.cells[-1]
    cells = torch.arange(coarsest) if cells is None else cells
    target = pooled_covariance(statistics)
    constant = sum(levels.channels) * math.log(2 * math.pi)

    @torch.no_grad()
    def measure(chunk: Tensor) -> float:
        covariance, b = left_out(statistics, target, coefficient, chunk)
        whitening = whiten(covariance, eps)
        centred = deviations(statistics, sample, chunk, whitening[0, 0].dtype)
        fine = len(centred[0])
        q = centred[0].new_zeros(fine, centred[0].shape[-1])
        log_det = q.new_zeros(fine, 1)
        for level, term in enumerate(squared_terms(whitening, centred)):
            repeat = fine // len(term)
            diagonal = whitening[level, level].diagonal(dim1=1, dim2=2)
            q += term.repeat_interleave(repeat, dim=0)
            log_det -= 2 * diagonal.log().sum(dim=1, keepdim=True).repeat_interleave(repeat, dim=0)
        left = (1 - b * q).clamp(min=1e-9)
        nll = (n / (n - 1)) ** 2 * q / left + log_det + left.log() + constant
        return float(nll.sum() / 2)

    patches = len(cells) * (levels.cells[0] // coarsest) * sample[0].shape[-1]
    return sum(each_chunk(statistics, cells, measure)) / patches
