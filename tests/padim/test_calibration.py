from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor

from datamodules import Loading, MVTec
from oracle import dense_distances, dense_embedding
from padim import (
    AllChannels,
    AnomalyMap,
    Backbone,
    ImageScore,
    Levels,
    PaDiM,
    PatchGaussian,
    PatchStatistics,
)
from padim.calibration import Calibration
from padim.leave_one_out import leave_one_out

GRIDS = [(8, 8), (4, 4), (2, 2)]
CHANNELS = [3, 4, 6]
EPS = 0.01


def feature_maps(n: int, channels: list[int] = CHANNELS, seed: int = 0) -> list[Tensor]:
    """Channels that correlate, across levels too, and differ in scale from place to place."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 1, 1, 1, generator=generator)
    return [
        (common + torch.randn(n, c, *grid, generator=generator)) * torch.linspace(0.5, 1.5, grid[1])
        for grid, c in zip(GRIDS, channels, strict=True)
    ]


def statistics_of(levels: Levels, embedding: list[Tensor]) -> PatchStatistics:
    statistics = PatchStatistics(levels)
    statistics.update(embedding)
    return statistics


def closed_form(
    maps: list[Tensor], coefficient: float, ensemble: str | None = None
) -> list[np.ndarray]:
    """(positions, n) each, row by row."""
    levels = Levels(GRIDS, [m.shape[1] for m in maps])
    x = levels.embed(maps)
    found = leave_one_out(statistics_of(levels, x), x, PatchGaussian(EPS, coefficient, ensemble))
    return [part.flatten(1).T.numpy() for part in found]


def brute_force(maps: list[Tensor], coefficient: float) -> np.ndarray:
    x = dense_embedding(maps)
    columns = [
        dense_distances(np.delete(x, i, axis=1), x[:, [i]], EPS, coefficient)
        for i in range(x.shape[1])
    ]
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("n", [2, 3, 5, 12, 40])
def test_without_shrinkage_it_equals_refits(n: int) -> None:
    maps = feature_maps(n)
    # With 3 images, 1 - b q is 1e-4: float32 statistics are left with three digits.
    np.testing.assert_allclose(closed_form(maps, 0)[0], brute_force(maps, 0), rtol=1e-3)


@pytest.mark.parametrize("coefficient", [0.1, 0.6, 1.0])
@pytest.mark.parametrize(("n", "tolerance"), [(2, 1e-4), (5, 1e-4), (10, 0.06), (40, 0.01)])
def test_with_shrinkage_it_equals_refits(n: int, tolerance: float, coefficient: float) -> None:
    """The pooled covariance changes too. It is refitted for few images, else to first order."""
    maps = feature_maps(n)
    found, expected = closed_form(maps, coefficient)[0], brute_force(maps, coefficient)
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert np.median(np.abs(found / expected - 1)) < tolerance / 4


def test_levels_without_channels() -> None:
    maps = feature_maps(12, [3, 0, 6])
    for coefficient, tolerance in ((0, 1e-3), (0.3, 0.05)):
        found = closed_form(maps, coefficient)[0]
        np.testing.assert_allclose(found, brute_force(maps, coefficient), rtol=tolerance)


@pytest.mark.parametrize(("n", "tolerance"), [(5, 1e-3), (40, 0.01)])
def test_each_layer_of_an_ensemble(n: int, tolerance: float) -> None:
    maps = feature_maps(n)
    for coefficient in (0, 0.3):
        found = closed_form(maps, coefficient, "sum")
        for layer, of_layer in zip(maps, found, strict=True):
            np.testing.assert_allclose(of_layer, brute_force([layer], coefficient), rtol=tolerance)


@pytest.mark.parametrize("n", [5, 40])
def test_some_of_the_images(n: int) -> None:
    levels = Levels(GRIDS, CHANNELS)
    x = levels.embed(feature_maps(n))
    statistics = statistics_of(levels, x)
    gaussian = PatchGaussian(EPS, 0.3)
    every = leave_one_out(statistics, x, gaussian)[0]
    some = leave_one_out(statistics, [level[..., 2:5] for level in x], gaussian)[0]
    torch.testing.assert_close(some, every[2:5])


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
@pytest.mark.parametrize("n", [2, 3, 20])
def test_equal_images_have_distance_0(n: int, coefficient: float) -> None:
    maps = [m.expand(n, -1, -1, -1) for m in feature_maps(1)]
    assert closed_form(maps, coefficient)[0].max() < 1e-4


def test_one_image_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="takes 2 normal images or more, got 1"):
        closed_form(feature_maps(1), 0)


Score = Callable[[list[Tensor]], tuple[Tensor, Tensor]]


def scoring(grid: tuple[int, int], side: int, kind: str = "max") -> Score:
    """Image scores and maps of `side` pixels from distances, as a model gives them."""
    anomaly_map, image_score = AnomalyMap(sigma=side / 56), ImageScore(kind)
    anomaly_map.prepare(grid, (side, side))

    def score(distances: list[Tensor]) -> tuple[Tensor, Tensor]:
        maps = anomaly_map(distances[0])
        return image_score(distances, maps), maps

    return score


def calibrated(m: int, kind: str = "max", side: int = 16) -> tuple[Calibration, Tensor, Tensor]:
    """A calibration, and the image scores and maps that it was made from."""
    distance = torch.rand(m, 4, 4, generator=torch.Generator().manual_seed(0))
    calibration, score = Calibration(), scoring((4, 4), side, kind)
    calibration.fit([distance], score)
    return calibration, *score([distance])


@pytest.mark.parametrize("m", [1, 19, 40])
def test_every_image_is_as_likely_to_be_among_the_highest(m: int) -> None:
    """The promise itself: of m + 1 exchangeable images, each the new one once, count the alarms."""
    everything = torch.randperm(m + 1, generator=torch.Generator().manual_seed(0)).float()
    calibration = Calibration()
    for rate in (0.05, 0.1, 0.29, 0.5):
        if rate * (m + 1) < 1:
            continue
        alarms = 0
        for new in range(m + 1):
            calibration.scores = everything[torch.arange(m + 1) != new].sort().values
            alarms += everything[new].item() >= calibration.threshold(rate)
        assert alarms == int(rate * (m + 1) + 1e-9)


def test_the_threshold_is_where_the_p_value_is_the_rate() -> None:
    calibration, known, _ = calibrated(19)
    scores = torch.cat([known, known + 1e-3, torch.tensor([0.0, 9.0])])  # ties among them
    expected = [(1 + int((known >= score).sum())) / 20 for score in scores]
    p = calibration.p_value(scores)
    assert p.tolist() == pytest.approx(expected)
    for rank in range(1, 20):
        anomalous = scores >= calibration.threshold(rank / 20)
        assert torch.equal(anomalous, p <= rank / 20 + 1e-6)


def test_too_low_a_rate_says_how_many_images_it_takes() -> None:
    calibration, _, _ = calibrated(40)
    message = r"0\.01 cannot be promised from 40 .* lowest is 1/41 = 0\.024; 0\.01 takes 99"
    with pytest.raises(ValueError, match=message):
        calibration.threshold(0.01)
    with pytest.raises(ValueError, match="from 40 normal images"):
        calibration.pixel_threshold(0.01)
    calibrated(99)[0].threshold(0.01)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_impossible_rate(rate: float) -> None:
    with pytest.raises(ValueError, match=f"must be within 0 and 1, got {rate:g}"):
        calibrated(40)[0].threshold(rate)


def test_nothing_is_anomalous_before_calibration() -> None:
    calibration = Calibration()
    assert calibration.p_value(torch.tensor([0.0, 1e9])).tolist() == [1, 1]
    with pytest.raises(ValueError, match="from 0 normal images"):
        calibration.threshold(0.05)


def test_an_anomalous_image_is_one_with_an_anomalous_pixel() -> None:
    calibration, scores, maps = calibrated(40)
    pixel = calibration.pixel_threshold(0.1)
    assert torch.equal((maps >= pixel).any(dim=2).any(dim=1), scores >= calibration.threshold(0.1))
    assert (scores >= calibration.threshold(0.1)).sum() == 3  # the 4th highest of 40 is the limit
    other, _, maps = calibrated(40, "topk_mean")
    assert (maps >= other.pixel_threshold(0.1)).any(dim=2).any(dim=1).sum() == 3


def test_extent_is_a_share_of_the_pixels() -> None:
    calibration, _, maps = calibrated(200)
    for share in (0.0005, 0.003, 0.1):
        exceeding = (maps > calibration.extent_threshold(share)).float().mean()
        assert exceeding == pytest.approx(share, rel=0.05)
    with pytest.raises(ValueError, match=r"within 1e-5 to 0\.1, got 0\.5"):
        calibration.extent_threshold(0.5)


def test_large_maps_are_thinned() -> None:
    small, large = (calibrated(5, side=side)[0].extent_threshold(0.05) for side in (64, 512))
    assert large == pytest.approx(small, rel=0.01)


def test_state_dict_brings_as_many_scores_as_were_kept() -> None:
    calibration, known, _ = calibrated(40)
    loaded, _, _ = calibrated(3)
    loaded.load_state_dict(calibration.state_dict())
    assert torch.equal(loaded.p_value(known), calibration.p_value(known))
    assert loaded.pixel_threshold(0.1) == calibration.pixel_threshold(0.1)
    assert loaded.extent_threshold(0.01) == calibration.extent_threshold(0.01)


def test_fixed_thresholds_hold_until_there_are_other_images(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calibration, known, _ = calibrated(40)
    by_rate = calibration.thresholds
    assert by_rate == (calibration.threshold(1 / 41), calibration.pixel_threshold(1 / 41))
    calibration.fix(3.5, 2.5, "the best guess")
    loaded = Calibration(**calibration.config)
    loaded.load_state_dict(calibration.state_dict())
    for one in (calibration, loaded, Calibration(fixed=[3.5, 2.5], source="the best guess")):
        assert one.thresholds == (3.5, 2.5)
        assert one.config["source"] == "the best guess"
    assert torch.equal(loaded.p_value(known), calibrated(40)[0].p_value(known))
    loaded.merge(calibration)
    calibration.fit([torch.rand(4, 4, 4)], scoring((4, 4), 16))
    for one in (calibration, loaded):
        assert one.fixed is None
        assert one.config == Calibration().config
    assert caplog.text.count("threshold 3.5, the best guess, is dropped") == 2


@pytest.fixture(scope="module")
def bottle(mvtec_256: Path) -> tuple[Levels, list[Tensor]]:
    """The training images of bottle in 52 channels of the two coarser grids."""
    data = MVTec(mvtec_256, "bottle", loading=Loading(num_workers=0))
    data.setup()
    model = PaDiM(Backbone(layers=["blocks.2", "blocks.4"]), AllChannels())
    with torch.inference_mode():
        batches = [model.embed(model.backbone(b["image"])) for b in data.train_dataloader()]
    x = [torch.cat(level, dim=-1)[:, ::3].clone() for level in zip(*batches, strict=True)]
    return Levels(model.levels.grids, [level.shape[1] for level in x]), x


@pytest.mark.slow
@pytest.mark.parametrize("coefficient", [0.0, 0.3])
def test_real_features(bottle: tuple[Levels, list[Tensor]], coefficient: float) -> None:
    """20 images in 30 dimensions, against refits without each of them."""
    x = [level[:, :count, :20] for level, count in zip(bottle[1], (10, 20), strict=True)]
    levels = Levels(bottle[0].grids, (10, 20))
    gaussian = PatchGaussian(EPS, coefficient)
    found = leave_one_out(statistics_of(levels, x), x, gaussian)[0]
    refits = []
    for i in range(20):
        rest = [torch.cat([level[..., :i], level[..., i + 1 :]], dim=-1) for level in x]
        gaussian.fit(statistics_of(levels, rest))
        refits += gaussian([level[..., i : i + 1] for level in x])
    error = (found / torch.cat(refits) - 1).abs()
    assert error.max() < 2 / (20 - 1)
    assert error.median() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("neighbours", [0, 1])
def test_false_alarms_on_held_out_images(
    bottle: tuple[Levels, list[Tensor]], neighbours: int
) -> None:
    """20 random splits: as many false alarms as independent draws at that rate give."""
    levels, x = bottle
    score, gaussian = scoring(levels.grids[0], 56), PatchGaussian(EPS, neighbours=neighbours)
    total, n, rates = x[0].shape[-1], 180, (0.01, 0.05, 0.1)
    inside = dict.fromkeys(rates, 0)
    for split in range(20):
        order = torch.randperm(total, generator=torch.Generator().manual_seed(split))
        sample, held_out = ([level[..., part] for level in x] for part in (order[:n], order[n:]))
        statistics, calibration = statistics_of(levels, sample), Calibration()
        gaussian.fit(statistics)
        calibration.fit(leave_one_out(statistics, sample, gaussian), score)
        scores, _ = score(gaussian(held_out))
        for rate in rates:
            alarms = int((scores >= calibration.threshold(rate)).sum())
            low, high = binom.interval(0.95, total - n, rate)
            inside[rate] += low <= alarms <= high
    # The threshold is drawn as well, so the interval holds a little less than 19 of 20.
    assert min(inside.values()) >= 16, inside
