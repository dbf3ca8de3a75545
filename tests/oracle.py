"""PaDiM word by word as in the paper: dense covariances, float64, NumPy. Slow and plain."""

import numpy as np
import torch
import torch.nn.functional as F

from padim import PatchStatistics


def dense_embedding(maps: list[torch.Tensor], channels: np.ndarray | None = None) -> np.ndarray:
    """Maps (B, C, h, w) to (positions, B, channels) on the finest grid, row by row."""
    grid = max(tuple(m.shape[2:]) for m in maps)
    kept = [m for m in maps if m.shape[1]]
    full = torch.cat([F.interpolate(m, grid, mode="nearest") for m in kept], dim=1)
    if channels is not None:
        full = full[:, channels]
    return full.permute(2, 3, 0, 1).flatten(0, 1).double().numpy()


def dense_covariances(train: np.ndarray) -> np.ndarray:
    """Sample covariances (positions, d, d) of (positions, n, d)."""
    centred = train - train.mean(axis=1, keepdims=True)
    return np.einsum("pni,pnj->pij", centred, centred) / max(train.shape[1] - 1, 1)


def dense_distances(
    train: np.ndarray,
    test: np.ndarray,
    eps: float = 0.01,
    shrinkage: float = 0,
    neighbours: int = 0,
    grid: tuple[int, int] | None = None,
) -> np.ndarray:
    """Mahalanobis distances (positions, B) of `test` to the Gaussians fitted on `train`.

    Each is the least of those of the positions within `neighbours` rows and columns on the grid.
    """
    positions, _, d = train.shape
    distances = np.full(test.shape[:2], np.inf)
    covariances = dense_covariances(train)
    pooled = covariances.mean(axis=0)
    for p in range(positions):
        mean = train[p].mean(axis=0)
        sigma = (1 - shrinkage) * covariances[p] + shrinkage * pooled + eps * np.eye(d)
        for q in positions_around(p, neighbours, grid or (positions, 1)):
            deviation = test[q] - mean
            squared = (deviation * np.linalg.solve(sigma, deviation.T).T).sum(axis=1)
            distances[q] = np.minimum(distances[q], np.sqrt(squared))
    return distances


def positions_around(p: int, radius: int, grid: tuple[int, int]) -> list[int]:
    """Positions, numbered row by row, within a radius of one in rows and columns."""
    row, column = divmod(p, grid[1])
    return [
        y * grid[1] + x
        for y in range(max(0, row - radius), min(grid[0], row + radius + 1))
        for x in range(max(0, column - radius), min(grid[1], column + radius + 1))
    ]


def statistics_error(found: PatchStatistics, expected: PatchStatistics) -> float:
    """The largest difference of an entry, relative to the largest that it could have.

    For a mean that is the largest of its level; for a scatter the root of the largest diagonals.
    """
    assert found.count == expected.count
    errors = []
    for level in range(len(expected.levels)):
        mean = expected.mean(level)
        if mean.numel():
            errors.append((found.mean(level) - mean).abs().max() / mean.abs().max())
    for fine, coarse in expected.levels.pairs():
        scatter = expected.scatter(fine, coarse)
        if scatter.numel():
            own = [expected.scatter(level, level).abs().max() for level in (fine, coarse)]
            difference = (found.scatter(fine, coarse) - scatter).abs().max()
            errors.append(difference / (own[0] * own[1]).sqrt())
    return float(torch.stack(errors).max())
