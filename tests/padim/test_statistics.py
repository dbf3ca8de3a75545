import numpy as np
import pytest
import torch

from padim import Levels, PatchStatistics

GRIDS, CHANNELS = [(8, 8), (4, 4), (2, 2)], [3, 4, 5]


def embedding(n: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(n, c, *g, generator=generator) * 3 + 7
        for g, c in zip(GRIDS, CHANNELS, strict=True)
    ]
    return Levels(GRIDS, CHANNELS).embed(maps)


def fitted(x: list[torch.Tensor], batch: int) -> PatchStatistics:
    statistics = PatchStatistics(Levels(GRIDS, CHANNELS))
    for part in zip(*(level.split(batch, dim=-1) for level in x), strict=True):
        statistics.update(list(part))
    return statistics


def assert_same(a: PatchStatistics, b: PatchStatistics) -> None:
    """Equal up to float32 rounding of sums over tens of images of magnitude 7."""
    for (name, x), (_, y) in zip(a.named_buffers(), b.named_buffers(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-3, msg=name)


@pytest.mark.parametrize("batch", [1, 4, 23])
def test_mean_and_scatter_are_those_of_all_images(batch: int) -> None:
    x = embedding(23)
    statistics = fitted(x, batch)
    levels = statistics.levels
    assert int(statistics.count) == 23
    full = [levels.spread(level, i, 0).double().numpy() for i, level in enumerate(x)]
    for fine, coarse in levels.pairs():
        a, b = (v - v.mean(axis=2, keepdims=True) for v in (full[fine], full[coarse]))
        expected = np.einsum("gdn,gen->gde", a, b)
        found = levels.spread(statistics.scatter(fine, coarse), fine, 0)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-3)
    for level in range(3):
        np.testing.assert_allclose(statistics.mean(level), x[level].mean(-1), rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 4, 23])
def test_images_that_are_all_the_same_are_noticed(batch: int) -> None:
    x = [level[..., :1].repeat(1, 1, 23) for level in embedding(1)]
    assert fitted(x, batch).are_constant
    assert not fitted([level[..., :1] for level in x], batch).are_constant
    x[1][5, 2, 20] += 0.01
    assert not fitted(x, batch).are_constant


def test_order_of_images_does_not_matter() -> None:
    x = embedding(20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    assert_same(fitted(x, 6), fitted([level[..., order] for level in x], 7))


def test_merge_is_the_union() -> None:
    x = embedding(20)
    a = fitted([level[..., :13] for level in x], 5)
    a.merge(fitted([level[..., 13:] for level in x], 4))
    assert int(a.count) == 20
    assert_same(a, fitted(x, 20))


def test_merge_with_nothing_changes_nothing() -> None:
    a, empty = fitted(embedding(5), 5), PatchStatistics(Levels(GRIDS, CHANNELS))
    before = {name: buffer.clone() for name, buffer in a.named_buffers()}
    a.merge(empty)
    assert all(torch.equal(before[name], buffer) for name, buffer in a.named_buffers())
    empty.merge(a)
    assert_same(empty, a)


def test_merge_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 6\) channels do not merge with .*\(3, 4, 5\)"):
        fitted(embedding(2), 2).merge(PatchStatistics(Levels(GRIDS, [3, 4, 6])))


def test_size_does_not_grow_with_images_and_is_as_documented() -> None:
    few, many = fitted(embedding(2), 2), fitted(embedding(200), 50)
    floats = sum(
        cells * d * (1 + sum(CHANNELS[level:]))
        for level, (cells, d) in enumerate(zip((64, 16, 4), CHANNELS, strict=True))
    )
    assert few.nbytes == many.nbytes == 4 * floats
    for statistics in (few, many):  # the count is one int64
        assert sum(buffer.nbytes for buffer in statistics.buffers()) == 4 * floats + 8


@pytest.mark.parametrize(
    ("channels", "gigabytes"), [((64, 128, 256), 0.6), ((256, 512, 1024), 9.5)]
)
def test_all_channels_of_the_papers_networks_are_affordable(
    channels: tuple[int, ...], gigabytes: float
) -> None:
    """ResNet-18's 448 and Wide ResNet-50-2's 1792, at 224 px."""
    levels = Levels([(56, 56), (28, 28), (14, 14)], channels)
    assert PatchStatistics.bytes_for(levels) < gigabytes * 1e9
