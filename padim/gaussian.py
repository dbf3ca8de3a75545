"""The Gaussian of every patch position, factored level by level."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from padim.levels import Levels, group
from padim.precision import full_precision
from padim.statistics import PatchStatistics

LevelBlocks = dict[tuple[int, int], Tensor]

CHUNK_BYTES = 256 * 2**20
"""Size of the float64 covariances that are factored at once."""


class PatchGaussian(nn.Module):
    """Mahalanobis distance of patch embeddings to the Gaussian of their position.

    At each fine position the joint covariance over all levels is
    Sigma = scatter / (n - 1) + eps * I (arXiv 2011.08785, section III.B). Ordered from the coarse
    to the fine dimensions, its Cholesky factor has blocks that are shared by all positions under a
    coarse cell, so level l is whitened by

        w_l = V_l (x_l - mu_l) - sum_{m coarser} A_lm w_m,   V_l = L_ll^-1,   A_lm = L_ll^-1 L_lm

    and the squared distance is the sum of |w_l|^2. This is exact, not an approximation.

    Args:
        eps: regularisation added once to the diagonal; 0.01 in the paper.

    Buffers (none is part of the state dict; they follow from the statistics):
        mean_{l}: (G_l, d_l).
        whitening_{l}_{m}: (G_l, d_l, d_m), V_l for m = l and A_lm for m coarser.
    """

    def __init__(self, eps: float = 0.01) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"gaussian.eps must be above 0, got {eps}")
        self.eps = eps
        self.levels: Levels | None = None

    @property
    def config(self) -> dict[str, float]:
        """The constructor's arguments."""
        return {"eps": self.eps}

    @property
    def fitted(self) -> bool:
        """Whether `fit` has been called."""
        return self.levels is not None

    @full_precision
    def fit(self, statistics: PatchStatistics) -> None:
        """Factor the covariances of the statistics.

        Raises:
            ValueError: no image has been seen, or a covariance is not positive definite.
        """
        if statistics.count == 0:
            raise ValueError("no image has been seen: update the model with normal images first")
        levels = statistics.levels
        for level in range(len(levels)):
            self._set(f"mean_{level}", statistics.mean(level).clone())
        for pair in levels.pairs():
            self._set(f"whitening_{pair[0]}_{pair[1]}", torch.empty_like(statistics.scatter(*pair)))
        # What lies under one coarse cell is independent of the rest. So the factorisation goes
        # chunk by chunk and can afford float64: in float32 its rounding would dominate.
        cells = levels.cells[-1]
        workers = torch.get_num_threads() if statistics.count.device.type == "cpu" else 1
        affordable = CHUNK_BYTES * cells // (2 * statistics.nbytes) // workers
        step = max(1, min(affordable, -(-cells // workers)))
        _each_on_one_thread(
            lambda start: self._factor(statistics, levels, start, start + step),
            range(0, cells, step),
            workers,
        )
        self.levels = levels

    def whitening(self, fine: int, coarse: int) -> Tensor:
        """(G_fine, d_fine, d_coarse) V_l for equal levels, A_lm otherwise."""
        return self.get_buffer(f"whitening_{fine}_{coarse}")

    @full_precision
    def level_distances(self, embedding: list[Tensor]) -> list[Tensor]:
        """Squared distance of each level given the coarser ones, on the level's own grid.

        Args:
            embedding: one (G_l, d_l, B) tensor a level.

        Returns:
            One (G_l, B) tensor a level. Repeated on the finest grid they sum to the squared
            Mahalanobis distance, so they tell at which semantic level an anomaly lies.
        """
        if self.levels is None:
            raise RuntimeError("the Gaussian is not fitted: call finalize() after the last update")
        levels = self.levels
        white: dict[int, Tensor] = {}
        for level in reversed(range(len(levels))):
            centred = embedding[level] - self.get_buffer(f"mean_{level}").unsqueeze(-1)
            w = torch.bmm(self.whitening(level, level), centred)
            for m in range(level + 1, len(levels)):
                cells = levels.cells[m]
                coupling = group(self.whitening(level, m), cells)
                group(w, cells).baddbmm_(coupling, white[m], alpha=-1)
            white[level] = w
        return [white[level].square().sum(dim=1) for level in range(len(levels))]

    def forward(self, embedding: list[Tensor]) -> Tensor:
        """Mahalanobis distance at every position of the finest grid.

        Args:
            embedding: one (G_l, d_l, B) tensor a level.

        Returns:
            (B, H, W) distances, H x W the finest grid.
        """
        terms = self.level_distances(embedding)
        assert self.levels is not None
        squared = terms[0]
        for level, term in enumerate(terms[1:], start=1):
            squared = squared + self.levels.spread(term, level, 0)
        return self.levels.to_grid(squared).sqrt()

    @torch.no_grad()
    def _factor(self, statistics: PatchStatistics, levels: Levels, start: int, stop: int) -> None:
        """Fill the whitening of what lies under cells start..stop of the coarsest level."""
        dtype = torch.float32 if statistics.count.device.type == "mps" else torch.float64
        rows = []
        for cells in levels.cells:
            per_cell = cells // levels.cells[-1]
            rows.append(slice(start * per_cell, stop * per_cell))
        covariance = {
            (fine, coarse): statistics.scatter(fine, coarse)[rows[fine]].to(dtype)
            / (statistics.count - 1).clamp(min=1)
            for fine, coarse in levels.pairs()
        }
        for (fine, coarse), block in _whiten(covariance, self.eps).items():
            self.whitening(fine, coarse)[rows[fine]] = block.float()

    def _set(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


def _each_on_one_thread(work: Callable[[int], None], starts: Iterable[int], workers: int) -> None:
    """Work on independent chunks in parallel, each on a thread of its own.

    The matrices are small, so threads that share one would wait for each other after every step:
    on a busy machine that took ten times as long.
    """
    if workers == 1:
        for start in starts:
            work(start)
        return
    try:
        with ThreadPoolExecutor(workers, "factor", torch.set_num_threads, (1,)) as pool:
            list(pool.map(work, starts))  # the list brings their errors here
    finally:
        torch.set_num_threads(workers)


def _whiten(covariance: LevelBlocks, eps: float) -> LevelBlocks:
    """Block Cholesky, coarse to fine, of the covariances under some cells of the coarsest level.

    Args:
        covariance: (G_l, d_l, d_m) blocks Sigma_lm for m = l and for m coarser.
        eps: added to the diagonal.

    Returns:
        V_l under (l, l) and A_lm under (l, m), of the same shapes.
    """
    count = max(level for level, _ in covariance) + 1
    factor: LevelBlocks = {}
    whitening: LevelBlocks = {}
    for level in reversed(range(count)):
        residual = covariance[level, level]
        residual.diagonal(dim1=1, dim2=2).add_(eps)
        for m in reversed(range(level + 1, count)):
            cells = len(covariance[m, m])
            block = group(covariance[level, m], cells)
            for k in range(m + 1, count):
                block = block - group(factor[level, k], cells) @ factor[m, k].mT
            factor[level, m] = (block @ whitening[m, m].mT).view_as(covariance[level, m])
            residual = residual - factor[level, m] @ factor[level, m].mT
        whitening[level, level] = _inverse_cholesky(residual, level)
        for m in range(level + 1, count):
            whitening[level, m] = whitening[level, level] @ factor[level, m]
    return whitening


def _inverse_cholesky(covariance: Tensor, level: int) -> Tensor:
    """(G, d, d) inverse of the lower Cholesky factor of each covariance."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info.any():
        raise ValueError(
            f"a covariance of level {level} is not positive definite: the features are not finite,"
            " or too large for this gaussian.eps"
        )
    identity = torch.eye(covariance.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
