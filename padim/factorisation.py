"""Covariances under cells of the coarsest level, and their Cholesky factors level by level.

What lies under one coarse cell is independent of the rest, so all this works on any set of cells.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from padim.levels import group
from padim.statistics import PatchStatistics

LevelBlocks = dict[tuple[int, int], Tensor]
"""(l, m) -> (G_l, d_l, d_m), for m = l and for m coarser than l."""

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**28}
"""Size of the float64 covariances that are factored at once, by the device; others as a CPU.

A GPU has enough to do with these: with a quarter of them WR50-Rd550 took four times as long.
"""

R = TypeVar("R")


def under(values: Tensor, cells: Tensor, total: int) -> Tensor:
    """Those of (G_l, ...) values that lie under some of the `total` cells of the coarsest level."""
    chosen: Tensor = values.unflatten(0, (total, -1))[cells].flatten(0, 1)
    return chosen


def covariances(statistics: PatchStatistics, cells: Tensor) -> LevelBlocks:
    """Sample covariances under some cells of the coarsest level; float64, 0 of a single image."""
    dtype = torch.float32 if statistics.count.device.type == "mps" else torch.float64
    levels = statistics.levels
    return {
        pair: under(statistics.scatter(*pair), cells, levels.cells[-1]).to(dtype)
        / (statistics.count - 1).clamp(min=1)
        for pair in levels.pairs()
    }


def pooled_covariance(statistics: PatchStatistics) -> LevelBlocks:
    """The covariance averaged over all positions: (1, d_l, d_m) blocks, float64.

    A block averaged over its own grid is the block of the joint covariance averaged over the fine
    positions, as each coarse cell covers equally many.
    """
    dtype = torch.float32 if statistics.count.device.type == "mps" else torch.float64
    return {
        pair: statistics.scatter(*pair).mean(dim=0, keepdim=True, dtype=dtype)
        / (statistics.count - 1).clamp(min=1)
        for pair in statistics.levels.pairs()
    }


def left_out(
    statistics: PatchStatistics, target: LevelBlocks, coefficient: float, cells: Tensor
) -> tuple[LevelBlocks, float]:
    """Sigma* - eps I and b of `leave_one_out`, which are common to all images left out of n.

    Args:
        statistics: of n images, 3 at least.
        target: T, the pooled covariance.
        coefficient: s, of shrinkage.
        cells: of the coarsest level.
    """
    n = int(statistics.count)
    blocks = covariances(statistics, cells)
    for pair, block in blocks.items():
        block.mul_((1 - coefficient) * (n - 1) / (n - 2)).add_(target[pair], alpha=coefficient)
    return blocks, (1 - coefficient) * n / ((n - 1) * (n - 2))


def deviations(
    statistics: PatchStatistics, sample: Sequence[Tensor], cells: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    """x - mu under some cells, one (G_l, d_l, B) tensor a level, of a sample like that."""
    total = statistics.levels.cells[-1]
    return [
        under(x, cells, total).to(dtype) - under(statistics.mean(level), cells, total).unsqueeze(-1)
        for level, x in enumerate(sample)
    ]


def joined(blocks: LevelBlocks, indices: Sequence[Tensor]) -> Tensor:
    """Blocks (1, d_l, d_m) of a pooled covariance as one matrix (D, D).

    Args:
        blocks: as `pooled_covariance` gives.
        indices: for each level, which rows and columns its channels are.
    """
    total = sum(map(len, indices))
    matrix = blocks[0, 0].new_zeros(total, total)
    for (fine, coarse), block in blocks.items():
        matrix[indices[fine][:, None], indices[coarse]] = block[0]
        matrix[indices[coarse][:, None], indices[fine]] = block[0].mT
    return matrix


def whiten(covariance: LevelBlocks, eps: float) -> LevelBlocks:
    """Block Cholesky, coarse to fine, of covariances + eps I; their diagonals are changed.

    Returns:
        V_l under (l, l) and A_lm under (l, m), of the same shapes (see `PatchGaussian`).

    Raises:
        ValueError: a covariance is not positive definite.
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


def separate_layers(covariance: LevelBlocks, counts: Sequence[Sequence[int]]) -> None:
    """Set the covariances between channels of different layers to 0, in place.

    Args:
        covariance: blocks of levels.
        counts: for each level, how many channels each of its layers has.
    """
    for (fine, coarse), block in covariance.items():
        if fine != coarse:
            block.zero_()
        else:
            ones = [block.new_ones(count, count) for count in counts[fine]]
            block.mul_(torch.block_diag(*ones))


def whitened(whitening: LevelBlocks, centred: Sequence[Tensor]) -> list[Tensor]:
    """Whitened deviations w_l, one (G_l, d_l, B) tensor a level.

    Args:
        whitening: as `whiten` gives.
        centred: one (G_l, d_l, B) tensor of deviations from the mean a level.
    """
    white: dict[int, Tensor] = {}
    for level in reversed(range(len(centred))):
        w = torch.bmm(whitening[level, level], centred[level])
        for m in range(level + 1, len(centred)):
            if not white[m].shape[1]:
                continue
            cells = len(white[m])
            group(w, cells).baddbmm_(group(whitening[level, m], cells), white[m], alpha=-1)
        white[level] = w
    return [white[level] for level in range(len(centred))]


def squared_terms(whitening: LevelBlocks, centred: Sequence[Tensor]) -> list[Tensor]:
    """Squared distance of each level given the coarser ones, one (G_l, B) tensor a level.

    Arguments as `whitened`.
    """
    return [w.square().sum(dim=1) for w in whitened(whitening, centred)]


def inner_products(w: Tensor, other: Tensor) -> Tensor:
    """Inner products (G, B) of (G, d, B) with the same."""
    if not w.shape[1]:  # the runtimes of exported models know no empty tensors
        return w.new_zeros(len(w), w.shape[2])
    return (w * other).sum(dim=1)


def each_chunk(statistics: PatchStatistics, cells: Tensor, work: Callable[[Tensor], R]) -> list[R]:
    """Work on cells of the coarsest level in chunks that memory can afford, on all cores.

    Every chunk has a thread of its own. The matrices are small, so threads that share one would
    wait for each other after every step: on a busy machine that took ten times as long.
    """
    device, total = statistics.count.device.type, statistics.levels.cells[-1]
    workers = torch.get_num_threads() if device == "cpu" else 1
    limit = CHUNK_BYTES.get(device, CHUNK_BYTES["cpu"])
    affordable = limit * total // (2 * statistics.nbytes) // workers
    chunks = cells.split(max(1, min(affordable, -(-len(cells) // workers))))
    if workers == 1:
        return [work(chunk) for chunk in chunks]
    try:
        with ThreadPoolExecutor(workers, "factor", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(work, chunks))
    finally:
        torch.set_num_threads(workers)


def _inverse_cholesky(covariance: Tensor, level: int) -> Tensor:
    """(G, d, d) inverse of the lower Cholesky factor of each covariance."""
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info.any():
        raise ValueError(
            f"a covariance of level {level} is not positive definite: the features are not finite,"
            " or too large for this gaussian.eps"
        )
    identity = torch.eye(covariance.shape[-1], dtype=factor.dtype, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    return inverse
