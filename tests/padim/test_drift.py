import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from correlated import NESTED, features
from oracle import dense_covariances, dense_embedding
from padim import Levels, PatchGaussian, PatchStatistics
from padim.drift import mean_as_image, scores_differ
from padim.leave_one_out import leave_one_out

CHANNELS = [2, 3, 4]
LEVELS = Levels(NESTED, CHANNELS)


def fitted(maps: list[torch.Tensor]) -> tuple[PatchStatistics, PatchGaussian]:
    statistics, gaussian = PatchStatistics(LEVELS), PatchGaussian(eps=0.1)
    statistics.update(LEVELS.embed(maps))
    gaussian.fit(statistics)
    return statistics, gaussian


def mean(maps: list[torch.Tensor]) -> list[torch.Tensor]:
    return [x.mean(dim=-1, keepdim=True) for x in LEVELS.embed(maps)]


def test_it_is_as_far_off_as_one_image() -> None:
    n, k = 20, 5
    train, new = (features(number, NESTED, CHANNELS, seed) for number, seed in ((n, 0), (k, 1)))
    statistics, gaussian = fitted(train)
    found = gaussian(mean_as_image(statistics, mean(new), k))[0].flatten()
    dense = dense_embedding(train)
    deviation = dense_embedding(new).mean(axis=1) - dense.mean(axis=1)
    covariances = dense_covariances(dense) + 0.1 * np.eye(sum(CHANNELS))
    squared = np.einsum(
        "pi,pi->p", deviation, np.linalg.solve(covariances, deviation[..., None])[..., 0]
    )
    expected = np.sqrt(squared * (1 + 1 / n) / (1 / k + 1 / n))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 40])  # fewer and more than dimensions
def test_false_alarms_of_normal_images(n: int) -> None:
    rate, trials, k = 0.2, 150, 10
    alarms = 0
    for seed in range(trials):
        maps = features(n + k, NESTED, CHANNELS, seed)
        train, new = ([m[some] for m in maps] for some in (slice(n), slice(n, None)))
        statistics, gaussian = fitted(train)
        known = leave_one_out(statistics, LEVELS.embed(train), gaussian)[0].amax(dim=(1, 2))
        found = gaussian(mean_as_image(statistics, mean(new), k))[0].max()
        alarms += 1 + int((known >= found).sum()) <= rate * (n + 1)
    # A share of at most `rate`: more than this in one of a thousand such tests.
    assert alarms <= binom.ppf(0.999, trials, rate)
    assert alarms  # a test that never gives one keeps any rate


def test_a_shift_too_small_for_any_image_is_found_by_their_mean() -> None:
    maps = features(140, NESTED, CHANNELS, 0)
    train, new = ([m[some] for m in maps] for some in (slice(40), slice(40, None)))
    statistics, gaussian = fitted(train)
    shift = math.sqrt(statistics.scatter(0, 0)[0, 0, 0] / 39)
    new[0][:, 0, 2, 3] += shift  # one deviation, in one channel at one position
    distances = gaussian(mean_as_image(statistics, mean(new), 100))[0][0]
    assert divmod(int(distances.argmax()), NESTED[0][1]) == (2, 3)
    known = leave_one_out(statistics, LEVELS.embed(train), gaussian)[0].amax(dim=(1, 2))
    alone = gaussian(LEVELS.embed(new))[0].amax(dim=(1, 2))
    assert scores_differ(known, alone) > 0.05


def test_scores_that_differ() -> None:
    known = torch.arange(10.0)
    # By hand: with two new scores above all ten, 2 of the C(12, 2) orders are as far apart.
    assert scores_differ(known, torch.tensor([11.0, 12.0])) == pytest.approx(2 / 66)
    assert scores_differ(known, torch.tensor([2.5, 6.5])) == pytest.approx(1, abs=0.1)
