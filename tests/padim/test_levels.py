import pytest
import torch
import torch.nn.functional as F

from padim import Levels


@pytest.mark.parametrize(
    "grids",
    [
        [(8, 8), (4, 4), (2, 2)],
        [(12, 8), (6, 4), (2, 2)],  # factors 2 x 2, then 3 x 2; not square
        [(6, 6), (6, 6), (3, 3)],  # two layers on one level
        [(7, 7), (4, 4)],  # no integer multiple: one level on the finest grid
        [(2, 2), (4, 4)],  # coarse layer named first
        [(5, 3)],
    ],
)
def test_spread_embedding_is_nearest_resizing(grids: list[tuple[int, int]]) -> None:
    maps = [torch.randn(3, 2 + i, *grid) for i, grid in enumerate(grids)]
    levels = Levels(grids, [m.shape[1] for m in maps])
    embedding = levels.embed(maps)
    fine = torch.cat([levels.spread(x, i, 0) for i, x in enumerate(embedding)], dim=1)
    on_grid = torch.stack([levels.to_grid(fine[:, c]) for c in range(fine.shape[1])], dim=1)
    expected = [F.interpolate(m, max(grids), mode="nearest") for m in maps]
    # Levels order the channels fine to coarse, layers of one level in the order given.
    by_level = [expected[i] for grid in levels.grids for i in _layers(grids, grid, len(levels))]
    assert torch.equal(on_grid, torch.cat(by_level, dim=1))


def _layers(grids: list[tuple[int, int]], grid: tuple[int, int], levels: int) -> list[int]:
    return [i for i, g in enumerate(grids) if g == grid or levels == 1]


def test_levels_are_finest_first_and_count_channels() -> None:
    levels = Levels([(14, 14), (56, 56), (28, 28), (28, 28)], [5, 1, 2, 3])
    assert levels.grids == ((56, 56), (28, 28), (14, 14))
    assert levels.channels == (1, 5, 5)
    assert levels.cells == (3136, 784, 196)


def test_grids_that_are_no_multiples_share_the_finest() -> None:
    levels = Levels([(63, 63), (32, 32), (16, 16)], [1, 2, 3])
    assert levels.grids == ((63, 63),)
    assert levels.channels == (6,)


def test_to_grid_of_a_coarse_level() -> None:
    x = torch.randn(2, 1, 4, 6)
    levels = Levels([(8, 12), (4, 6)], [0, 1])
    assert torch.equal(
        levels.to_grid(levels.embed([torch.zeros(2, 0, 8, 12), x])[1][:, 0], 1), x[:, 0]
    )
