"""Feature maps to fit Gaussians on."""

import torch

NESTED = [(8, 8), (4, 4), (2, 2)]


def features(n: int, grids: list[tuple[int, int]], channels: list[int], seed: int) -> list:
    """Correlated across channels and levels, with scales from 0.1 to 10."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 1, 1, 1, generator=generator)
    return [
        (torch.randn(n, c, *g, generator=generator) + common)
        * torch.logspace(-1, 1, c)[:, None, None]
        if c
        else torch.zeros(n, 0, *g)
        for g, c in zip(grids, channels, strict=True)
    ]
