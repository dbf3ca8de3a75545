"""Distances to the nearest of the Gaussians around each position."""

from typing import Any

import numpy as np
import pytest
import torch

from correlated import NESTED, features
from oracle import dense_distances, dense_embedding, positions_around
from padim import (
    AllChannels,
    Backbone,
    Calibration,
    Levels,
    PaDiM,
    PatchGaussian,
    PatchStatistics,
    PrincipalComponents,
    level_maps,
)
from padim.deployment import Deployment, difference, export
from padim.leave_one_out import REFITS, leave_one_out

GRIDS = [
    (NESTED, [3, 5, 8]),
    ([(12, 8), (6, 4), (2, 2)], [2, 3, 4]),
    ([(12, 6), (4, 3)], [2, 3]),
    ([(7, 7), (4, 4)], [3, 4]),  # falls back to one level
    (NESTED, [0, 0, 1]),
    (NESTED, [2, 0, 3]),
]


def fit(levels: Levels, maps: list[torch.Tensor], **options: Any) -> PatchGaussian:
    gaussian = PatchGaussian(**options)
    gaussian.fit(statistics(levels, maps))
    return gaussian


def statistics(levels: Levels, maps: list[torch.Tensor]) -> PatchStatistics:
    made = PatchStatistics(levels)
    made.update(levels.embed(maps))
    return made


@pytest.mark.parametrize(("grids", "channels"), GRIDS)
@pytest.mark.parametrize("radius", [1, 2, 3, 6])
@pytest.mark.parametrize("shrinkage", [0, 0.3])
def test_equals_dense_float64(grids: list, channels: list, radius: int, shrinkage: float) -> None:
    train, test = (features(k, grids, channels, seed) for k, seed in ((40, 0), (3, 1)))
    levels = Levels(grids, channels)
    gaussian = fit(levels, train, shrinkage=shrinkage, neighbours=radius)
    found = gaussian(levels.embed(test))[0]
    dense = dense_embedding(train), dense_embedding(test)
    expected = dense_distances(*dense, 0.01, shrinkage, radius, levels.grids[0])
    np.testing.assert_allclose(found.flatten(1).T, expected, rtol=1e-4)
    assert torch.allclose(found.square(), levels.to_grid(sum(gaussian.terms(levels.embed(test)))))


def test_a_shifted_image_is_as_near_as_it_was() -> None:
    levels = Levels(NESTED[:1], [4])
    (train,) = features(40, NESTED[:1], [4], 0)
    gaussian = fit(levels, [train], neighbours=1)
    alone = fit(levels, [train])
    test = train[:5] + 0.1
    shifted = gaussian(levels.embed([test.roll((1, -1), (2, 3))]))[0]
    unshifted = alone(levels.embed([test]))[0]
    assert (shifted[:, 2:-1, 1:-2] <= unshifted.roll((1, -1), (1, 2))[:, 2:-1, 1:-2] + 1e-4).all()


def left_out(levels: Levels, maps: list[torch.Tensor], radius: int, shrinkage: float) -> np.ndarray:
    """Distances (positions, n) of each image under the dense Gaussians of all others."""
    x = dense_embedding(maps)
    found = []
    for i in range(x.shape[1]):
        rest = np.delete(x, i, axis=1)
        found.append(
            dense_distances(rest, x[:, [i]], 0.01, shrinkage, radius, levels.grids[0])[:, 0]
        )
    return np.stack(found, axis=1)


@pytest.mark.parametrize(("grids", "channels"), GRIDS[:4])
@pytest.mark.parametrize("n", [5, 30])
@pytest.mark.parametrize("radius", [1, 2])
def test_leaving_one_out_is_exact_without_shrinkage(
    grids: list, channels: list, n: int, radius: int
) -> None:
    levels, maps = Levels(grids, channels), features(n, grids, channels, 0)
    (found,) = leave_one_out(
        statistics(levels, maps), levels.embed(maps), PatchGaussian(neighbours=radius)
    )
    expected = left_out(levels, maps, radius, 0)
    tolerance = 1e-3 if n > REFITS else 5e-3  # of few images the rounding of eps matters
    np.testing.assert_allclose(found.flatten(1).T, expected, rtol=tolerance)


def test_leaving_one_out_with_shrinkage_is_close() -> None:
    levels, maps = Levels(NESTED, [3, 5, 8]), features(40, NESTED, [3, 5, 8], 0)
    gaussian = PatchGaussian(shrinkage=0.3, neighbours=1)
    (found,) = leave_one_out(statistics(levels, maps), levels.embed(maps), gaussian)
    expected = left_out(levels, maps, 1, 0.3)
    ratio = found.flatten(1).T.numpy() / expected
    assert abs(ratio.mean() - 1) < 2e-3
    assert ratio.std() < 0.01


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone("test_resnet", [2, 3], "random", (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reduction", "suffix"), [(AllChannels(), ".onnx"), (PrincipalComponents(6), ".pt2")]
)
def test_a_model_and_its_file(
    backbone: Backbone, tmp_path: Any, reduction: Any, suffix: str
) -> None:
    images = torch.randint(0, 256, (12, 3, 64, 64), dtype=torch.uint8)
    made = {}
    for radius in (0, 1):
        model = PaDiM(
            backbone,
            reduction,
            PatchGaussian(shrinkage=0.1, neighbours=radius),
            calibration=Calibration(),
        )
        model.update(images)
        model.finalize()
        made[radius] = model.eval()
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    near = made[1](images)
    # Not so of the scores: the bicubic resize has negative weights.
    distances = [model.gaussian(model.embed(backbone(images)))[0] for model in made.values()]
    assert (distances[1] <= distances[0] * (1 + 1e-5)).all()
    assert distances[1].mean() < 0.95 * distances[0].mean()
    parts = level_maps(made[1], made[1].embed(backbone(images)))
    torch.testing.assert_close(sum(parts.values()), near.maps, rtol=1e-4, atol=1e-4)
    twin = PaDiM.from_config(made[1].config)
    twin.load_state_dict(made[1].state_dict())
    assert torch.equal(twin.eval()(images).scores, near.scores)
    assert made[1].state_dict().keys() == made[0].state_dict().keys()
    deployment = Deployment(made[1], 1.0)
    export(deployment, tmp_path / f"model{suffix}", "onnx" if suffix == ".onnx" else "torch")
    assert difference(tmp_path / f"model{suffix}", deployment) < 1e-3


def test_what_is_no_radius(backbone: Backbone) -> None:
    for radius in (-1, 8):
        with pytest.raises(ValueError, match=rf"from 0 to 7 on a grid of 8 x 8.*got {radius}"):
            PaDiM(backbone, gaussian=PatchGaussian(neighbours=radius))
    with pytest.raises(ValueError, match="neighbours is of the joint Gaussian"):
        PatchGaussian(ensemble="sum", neighbours=1)


def test_positions_around_a_corner() -> None:
    assert positions_around(0, 1, (3, 4)) == [0, 1, 4, 5]
