import math
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Loading, MVTec
from oracle import dense_covariances, dense_distances, dense_embedding
from padim import AllChannels, Backbone, Levels, PaDiM, PatchGaussian, PatchStatistics
from padim.shrinkage import (
    choose_shrinkage,
    lattice,
    leave_one_out_nll,
)

GRIDS = [(8, 8), (4, 4), (2, 2)]
CHANNELS = [3, 4, 6]
LEVELS = Levels(GRIDS, CHANNELS)


def feature_maps(n: int, seed: int = 0) -> list[torch.Tensor]:
    """Channels that correlate, across levels too, and differ in scale from place to place."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 1, 1, 1, generator=generator)
    return [
        (common + torch.randn(n, c, *grid, generator=generator)) * (0.5 + torch.rand(grid))
        for grid, c in zip(GRIDS, CHANNELS, strict=True)
    ]


def statistics_of(maps: list[torch.Tensor]) -> PatchStatistics:
    statistics = PatchStatistics(LEVELS)
    statistics.update(LEVELS.embed(maps))
    return statistics


@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 0.6, 1.0])
@pytest.mark.parametrize("n", [2, 7, 40])
def test_equals_the_dense_form(shrinkage: float, n: int) -> None:
    torch.manual_seed(0)
    train, test = feature_maps(n), feature_maps(5, seed=1)
    gaussian = PatchGaussian(shrinkage=shrinkage)
    gaussian.fit(statistics_of(train))
    expected = dense_distances(dense_embedding(train), dense_embedding(test), shrinkage=shrinkage)
    found = gaussian(LEVELS.embed(test))[0].flatten(1).T.numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_no_shrinkage_is_the_paper_bit_for_bit() -> None:
    statistics, x = statistics_of(feature_maps(9)), LEVELS.embed(feature_maps(4, seed=1))
    paper, zero = PatchGaussian(), PatchGaussian(shrinkage=0)
    for gaussian in (paper, zero):
        gaussian.fit(statistics)
    assert torch.equal(paper(x)[0], zero(x)[0])


@pytest.mark.parametrize("bad", [-0.1, 1.5, "much"])
def test_impossible_shrinkage(bad: float | str) -> None:
    with pytest.raises(ValueError, match=rf"gaussian.shrinkage must be auto or .* got {bad!r}"):
        PatchGaussian(shrinkage=bad)


def test_shrinkage_still_to_be_chosen() -> None:
    with pytest.raises(ValueError, match=r"gaussian.shrinkage is auto, and has not been chosen"):
        PatchGaussian(shrinkage="auto").fit(statistics_of(feature_maps(5)))


def brute_force(maps: list[torch.Tensor], coefficient: float, eps: float) -> float:
    """Refit without each image in turn; mean negative log likelihood of its patches."""
    x = dense_embedding(maps)
    _, n, d = x.shape
    total = 0.0
    for left_out in range(n):
        rest = np.delete(x, left_out, axis=1)
        covariances = dense_covariances(rest)
        sigma = (
            (1 - coefficient) * covariances
            + coefficient * covariances.mean(axis=0)
            + eps * np.eye(d)
        )
        v = x[:, left_out] - rest.mean(axis=1)
        q = np.einsum("pi,pi->p", v, np.linalg.solve(sigma, v[..., None])[..., 0])
        log_det = np.linalg.slogdet(sigma)[1]
        total += (0.5 * (q + log_det + d * math.log(2 * math.pi))).mean() / n
    return total


@pytest.mark.parametrize("coefficient", [0.0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("n", [20, 40])
def test_closed_form_equals_leaving_each_image_out(n: int, coefficient: float) -> None:
    torch.manual_seed(0)
    maps = feature_maps(n)
    found = leave_one_out_nll(statistics_of(maps), LEVELS.embed(maps), 0.01, coefficient)
    # The change of the pooled covariance is what the closed form leaves out.
    tolerance = 1e-4 if coefficient == 0 else 2 / (n - 1)
    assert found == pytest.approx(brute_force(maps, coefficient, 0.01), rel=tolerance)


def test_the_coefficient_is_where_brute_force_is_least() -> None:
    torch.manual_seed(0)
    maps = feature_maps(20)
    choice = choose_shrinkage(statistics_of(maps), LEVELS.embed(maps), 0.01)
    grid = np.linspace(0, 1, 51)
    best = min(brute_force(maps, coefficient, 0.01) for coefficient in grid)
    assert brute_force(maps, choice.coefficient, 0.01) == pytest.approx(best, abs=0.02)
    assert list(choice.curve) == sorted(choice.curve)
    assert choice.gain == pytest.approx(choice.curve[0.0] - choice.curve[choice.coefficient])
    assert choice.gain > 0


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_images_to_leave_one_out(n: int) -> None:
    maps = feature_maps(n)
    choice = choose_shrinkage(statistics_of(maps), LEVELS.embed(maps), 0.01)
    assert (choice.coefficient, choice.curve, choice.gain) == (1.0, {}, 0.0)


def test_some_cells_give_their_own_likelihood() -> None:
    maps = feature_maps(12)
    arguments = statistics_of(maps), LEVELS.embed(maps), 0.01, 0.2
    each = [leave_one_out_nll(*arguments, torch.tensor([cell])) for cell in range(4)]
    assert leave_one_out_nll(*arguments) == pytest.approx(np.mean(each))


def test_lattice_is_a_quarter_evenly_spread() -> None:
    chosen = torch.zeros(14, 14, dtype=torch.bool)
    chosen.view(-1)[lattice((14, 14))] = True
    assert chosen.sum() == 49
    assert not (chosen[1:] & chosen[:-1]).any()
    assert not (chosen[:, 1:] & chosen[:, :-1]).any()
    assert torch.equal(lattice((4, 3)), torch.arange(12))


def model() -> PaDiM:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", [1, 2, 3], "random", image_size=(64, 64))
    return PaDiM(backbone, AllChannels(), PatchGaussian(shrinkage="auto"))


def test_the_coefficient_is_read_under_its_old_name() -> None:
    gaussian = PatchGaussian(shrinkage="auto")
    gaussian.load_state_dict({"amount": torch.tensor(0.25)})
    assert gaussian.coefficient == 0.25


def test_a_model_keeps_the_coefficient_it_chose() -> None:
    images = torch.randint(0, 255, (12, 3, 64, 64), dtype=torch.uint8)
    fitted = model()
    fitted.update(images)
    fitted.finalize()
    assert fitted.shrinkage_choice is not None
    assert 0 < fitted.gaussian.coefficient == pytest.approx(fitted.shrinkage_choice.coefficient)
    loaded = PaDiM.from_config(fitted.config)
    loaded.load_state_dict(fitted.state_dict())
    assert loaded.gaussian.coefficient == fitted.gaussian.coefficient
    assert torch.equal(loaded(images).maps, fitted(images).maps)


@pytest.mark.slow
def test_a_sample_gives_the_coefficient_of_all_images(mvtec_256: Path) -> None:
    data = MVTec(mvtec_256, "pill", loading=Loading(num_workers=0))
    data.setup()
    backbone = Backbone()
    fitted = PaDiM(backbone, AllChannels(), PatchGaussian(shrinkage="auto"))
    everything: list[list[torch.Tensor]] = []
    for batch in data.train_dataloader():
        maps = backbone(batch["image"])
        fitted.accumulate(maps)
        everything.append(fitted.embed(maps))
    fitted.finalize()
    assert fitted.shrinkage_choice is not None
    chosen = fitted.shrinkage_choice.coefficient
    images = [torch.cat(level, dim=-1) for level in zip(*everything, strict=True)]
    cells = torch.arange(0, 196, 4)  # a quarter of them, to be quicker
    around = [
        leave_one_out_nll(fitted.statistics, images, 0.01, coefficient, cells)
        for coefficient in (0.6 * chosen, chosen, 1.5 * chosen)
    ]
    assert around[1] < min(around[0], around[2])
