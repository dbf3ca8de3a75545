from pathlib import Path

import numpy as np
import pytest
import torch

from correlated import NESTED, features
from datamodules import Loading, MVTec
from oracle import dense_distances, dense_embedding
from padim import Backbone, Levels, PaDiM, PatchGaussian, PatchStatistics


def fit(levels: Levels, maps: list[torch.Tensor], eps: float = 0.01) -> PatchGaussian:
    statistics = PatchStatistics(levels)
    for part in zip(*(m.split(7) for m in maps), strict=True):
        statistics.update(levels.embed(list(part)))
    gaussian = PatchGaussian(eps)
    gaussian.fit(statistics)
    return gaussian


@pytest.mark.parametrize(
    ("grids", "channels"),
    [
        (NESTED, [3, 5, 8]),
        ([(12, 8), (6, 4), (2, 2)], [2, 3, 4]),
        ([(8, 8), (4, 4), (4, 4)], [3, 2, 2]),
        ([(7, 7), (4, 4)], [3, 4]),  # falls back to one level
        ([(6, 4)], [5]),
        (NESTED, [0, 0, 1]),  # d = 1, on the coarsest grid
        (NESTED, [2, 0, 3]),
    ],
)
@pytest.mark.parametrize("n", [1, 5, 40])  # one image, fewer than dimensions, more
def test_equals_dense_float64(grids: list, channels: list[int], n: int) -> None:
    train, test = (features(k, grids, channels, seed) for k, seed in ((n, 0), (6, 1)))
    levels = Levels(grids, channels)
    found = fit(levels, train)(levels.embed(test))[0]
    expected = dense_distances(dense_embedding(train), dense_embedding(test))
    # Where n <= d the distance lies in directions that eps alone carries, and the statistics'
    # float32 rounding, 6e-8 of eigenvalues up to 1600 here, is no longer small against eps = 0.01.
    np.testing.assert_allclose(
        found.flatten(1).T, expected, rtol=1e-4 if n > sum(channels) or n == 1 else 2e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rtol"), [(209, 1e-4), (20, 3e-4)])
def test_equals_dense_float64_on_real_features(mvtec_256: Path, n: int, rtol: float) -> None:
    data = MVTec(mvtec_256, "bottle", loading=Loading(64, 0))
    backbone = Backbone()
    images = [batch["image"] for batch in data.train_dataloader()]
    train = [torch.cat(maps)[:n] for maps in zip(*map(backbone, images), strict=True)]
    test = backbone(next(iter(data.test_dataloader()))["image"][:4])
    model = PaDiM(backbone)
    for part in zip(*(m.split(64) for m in train), strict=True):
        model.accumulate(list(part))
    model.finalize()
    found = model.gaussian(model.embed(test))[0].flatten(1).T
    channels = model.reduction.channels(176).numpy()
    sample = np.arange(0, 3136, 7)  # every seventh position: the oracle is slow
    dense = [dense_embedding(maps, channels)[sample] for maps in (train, test)]
    np.testing.assert_allclose(found[sample], dense_distances(*dense), rtol=rtol)


def test_level_terms_add_up_to_the_squared_distance() -> None:
    levels = Levels(NESTED, [3, 5, 8])
    gaussian = fit(levels, features(30, NESTED, [3, 5, 8], 0))
    x = levels.embed(features(2, NESTED, [3, 5, 8], 1))
    terms = gaussian.level_distances(x)
    assert [tuple(t.shape) for t in terms] == [(64, 2), (16, 2), (4, 2)]
    total = sum(levels.to_grid(levels.spread(t, i, 0)) for i, t in enumerate(terms))
    torch.testing.assert_close(total, gaussian(x)[0].square())


def test_coarsest_term_is_the_distance_of_that_level_alone() -> None:
    train, test = (features(n, NESTED, [3, 5, 8], s) for n, s in ((30, 0), (4, 1)))
    levels = Levels(NESTED, [3, 5, 8])
    term = fit(levels, train).level_distances(levels.embed(test))[2]
    expected = dense_distances(dense_embedding(train[2:]), dense_embedding(test[2:]))
    np.testing.assert_allclose(levels.to_grid(term, 2).flatten(1).T, expected**2, rtol=1e-4)


def test_surroundings_do_not_lower_the_precision() -> None:
    maps = features(30, NESTED, [3, 5, 8], 0)
    levels = Levels(NESTED, [3, 5, 8])
    expected = fit(levels, maps)(levels.embed(maps))[0]
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = fit(levels, maps)(levels.embed(maps))[0]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found, expected)


def test_factoring_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = features(30, NESTED, [3, 5, 8], 0)
    levels = Levels(NESTED, [3, 5, 8])
    whole = fit(levels, maps)
    monkeypatch.setattr("padim.factorisation.CHUNK_BYTES", {"cpu": 1})  # one coarse cell at a time
    for (name, a), (_, b) in zip(
        whole.named_buffers(), fit(levels, maps).named_buffers(), strict=True
    ):
        torch.testing.assert_close(a, b, msg=name)


def test_unfitted_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"not fitted: call finalize\(\)"):
        PatchGaussian()([torch.zeros(4, 1, 1)])


def test_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="no image has been seen"):
        PatchGaussian().fit(PatchStatistics(Levels(NESTED, [1, 1, 1])))


@pytest.mark.parametrize("eps", [0, -1.0, float("nan"), float("inf")])
def test_eps_must_be_positive(eps: float) -> None:
    with pytest.raises(ValueError, match=f"gaussian.eps must be above 0 and finite, got {eps}"):
        PatchGaussian(eps)


def test_infinite_features_are_refused() -> None:
    maps = features(5, NESTED, [3, 5, 8], 0)
    maps[1][0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="covariance of level 1 is not positive definite"):
        fit(Levels(NESTED, [3, 5, 8]), maps)
