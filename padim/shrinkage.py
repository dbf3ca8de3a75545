"""How far to shrink the covariances, chosen from the normal images alone."""

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from padim.factorisation import (
    covariances,
    each_chunk,
    pooled_covariance,
    squared_terms,
    under,
    whiten,
)
from padim.levels import Grid
from padim.statistics import PatchStatistics

TOLERANCE = 0.02
"""The root of the amount is chosen to this accuracy; the likelihood is flat over more."""

SMALLEST_LATTICE = 16
"""Cells that are enough to choose the amount from."""


@dataclass(frozen=True)
class ShrinkageChoice:
    """The amount of shrinkage and why.

    Attributes:
        amount: where the curve is lowest.
        curve: amount -> mean leave-one-out negative log likelihood of a patch, in nats, in
            ascending order; empty where there are too few images to leave one out.
    """

    amount: float
    curve: dict[float, float]

    @property
    def gain(self) -> float:
        """Nats a patch gained over no shrinkage."""
        return self.curve[0.0] - min(self.curve.values()) if self.curve else 0.0


def choose_shrinkage(
    statistics: PatchStatistics, sample: list[Tensor], eps: float
) -> ShrinkageChoice:
    """The amount of least leave-one-out negative log likelihood, by a bounded scalar search.

    Args:
        statistics: of all training images.
        sample: embedding of some of them, one (G_l, d_l, B) tensor a level.
        eps: as of the Gaussian.
    """
    if statistics.count < 3:  # what is left when one is left out has no covariance
        return ShrinkageChoice(1.0, {})
    cells = lattice(statistics.levels.grids[-1])
    curve: dict[float, float] = {}

    def measure(amount: float) -> float:
        amount = float(amount)
        curve[amount] = leave_one_out_nll(statistics, sample, eps, amount, cells)
        return curve[amount]

    measure(0.0)
    # Over the root of the amount the curve is nearer to a parabola, which saves evaluations.
    minimize_scalar(
        lambda root: measure(root**2), bounds=(0, 1), method="bounded", options={"xatol": TOLERANCE}
    )
    best = min(curve, key=lambda amount: curve[amount])
    return ShrinkageChoice(best, dict(sorted(curve.items())))


def lattice(grid: Grid) -> Tensor:
    """Every fourth cell of a (height, width) grid, none below or beside another.

    Evenly spread cells give the amount of all cells to 0.015, drawn ones only to 0.09, at a quarter
    of the time. A small grid keeps all its cells.
    """
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    chosen = ((rows + 2 * columns) % 4 == 0).flatten()
    return (chosen if chosen.sum() >= SMALLEST_LATTICE else chosen | True).nonzero()[:, 0]


def leave_one_out_nll(
    statistics: PatchStatistics,
    sample: list[Tensor],
    eps: float,
    amount: float,
    cells: Tensor | None = None,
) -> float:
    """Mean negative log likelihood of training patches under the model fitted without their image.

    In closed form. With v = x - mu, leaving x out of n images gives mu' = mu - v / (n - 1) and
    S' = (n - 1)/(n - 2) (S - n/(n - 1)^2 v v^T). With s the amount,

        Sigma* = (1 - s) (n - 1)/(n - 2) S + s T + eps I,   b = (1 - s) n/((n - 1) (n - 2)),
        q = v^T Sigma*^-1 v,
        q' = (n/(n - 1))^2 q / (1 - b q),   log det Sigma' = log det Sigma* + log(1 - b q).

    Only the change of the pooled covariance T by one of its many patches an image is neglected.

    Args:
        statistics: of n images, 3 at least.
        sample: the embedding of some of them, one (G_l, d_l, B) tensor a level.
        eps: as of the Gaussian.
        amount: of shrinkage.
        cells: of the coarsest level, to look at; all by default.

    Returns:
        Nats a fine patch, all levels together.
    """
    n, levels = int(statistics.count), statistics.levels
    coarsest, d = levels.cells[-1], sum(levels.channels)
    cells = torch.arange(coarsest) if cells is None else cells
    target = pooled_covariance(statistics)
    b = (1 - amount) * n / ((n - 1) * (n - 2))

    @torch.no_grad()
    def measure(chunk: Tensor) -> float:
        covariance = covariances(statistics, chunk)
        for pair, block in covariance.items():
            block.mul_((1 - amount) * (n - 1) / (n - 2)).add_(target[pair], alpha=amount)
        whitening = whiten(covariance, eps)
        dtype = whitening[0, 0].dtype
        centred = [
            under(x, chunk, coarsest).to(dtype)
            - under(statistics.mean(level), chunk, coarsest).unsqueeze(-1)
            for level, x in enumerate(sample)
        ]
        fine = len(centred[0])
        q = centred[0].new_zeros(fine, centred[0].shape[-1])
        log_det = q.new_zeros(fine, 1)
        for level, term in enumerate(squared_terms(whitening, centred)):
            repeat = fine // len(term)
            diagonal = whitening[level, level].diagonal(dim1=1, dim2=2)
            q += term.repeat_interleave(repeat, dim=0)
            log_det -= 2 * diagonal.log().sum(dim=1, keepdim=True).repeat_interleave(repeat, dim=0)
        left = (1 - b * q).clamp(min=1e-9)
        nll = (n / (n - 1)) ** 2 * q / left + log_det + left.log() + d * math.log(2 * math.pi)
        return float(nll.sum() / 2)

    patches = len(cells) * (levels.cells[0] // coarsest) * sample[0].shape[-1]
    return sum(each_chunk(statistics, cells, measure)) / patches
