"""Thinned curves look like the whole ones."""

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve, roc_curve

from padim.curve import MOST_POINTS, CurvePoints
from padim.metrics import ImageMetrics, PixelMetrics

STEP = 1 / 127
"""Distance between points along an axis; a monotonic curve lies in the box between two of them."""


def drawn(points: CurvePoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    thresholds, x, y = (part.numpy() for part in points)
    assert len(x) == len(y) == len(thresholds) <= MOST_POINTS
    assert (np.diff(x) >= 0).all()
    assert (np.diff(thresholds) < 0).all()
    return thresholds, x, y


def distance(points: CurvePoints, x: np.ndarray, y: np.ndarray) -> float:
    """From the farthest of many points to the drawn line, the larger of the axes."""
    _, line_x, line_y = drawn(points)
    along = np.linspace(0, len(line_x) - 1, 20 * len(line_x))
    steps = np.arange(len(line_x))
    line = np.stack([np.interp(along, steps, line_x), np.interp(along, steps, line_y)])
    return max(np.abs(line - p[:, None]).max(axis=0).min() for p in np.stack([x, y], axis=1))


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(3000) < 0.05
    return truth, (rng.normal(size=3000) + 2 * truth).astype(np.float32)


@pytest.fixture(scope="module")
def metrics(case: tuple[np.ndarray, np.ndarray]) -> ImageMetrics:
    truth, scores = case
    metrics = ImageMetrics()
    metrics.update(torch.from_numpy(scores), torch.from_numpy(truth))
    metrics.compute()
    return metrics


def test_roc_looks_like_the_whole(case, metrics: ImageMetrics) -> None:
    false, true, _ = roc_curve(*case, drop_intermediate=False)
    assert distance(metrics.curves["roc"], false, true) < STEP
    _, x, y = drawn(metrics.curves["roc"])
    assert np.trapezoid(y, x) == pytest.approx(float(metrics.compute()["auroc"]), abs=STEP / 2)


def test_a_straight_curve_tells_at_which_thresholds() -> None:
    metrics = ImageMetrics()
    metrics.update(torch.arange(3000.0), (torch.arange(3000) > 2990).float())
    metrics.compute()
    at, x, _ = drawn(metrics.curves["roc"])
    assert np.diff(x).max() < 0.01
    np.testing.assert_allclose(x[at < 2990], (2991 - at[at < 2990]) / 2991)


def test_precision_and_recall_are_those_at_the_thresholds(case, metrics: ImageMetrics) -> None:
    precision, recall, thresholds = precision_recall_curve(*case)
    exact = dict(zip(thresholds.tolist(), zip(recall, precision, strict=False), strict=False))
    at, x, y = drawn(metrics.curves["pr"])
    assert (at[0], x[0], y[0]) == (np.inf, 0, 1)
    assert list(zip(x[1:], y[1:], strict=True)) == [
        pytest.approx(exact[t], rel=1e-6) for t in at[1:]
    ]
    assert np.diff(x).max() <= STEP


def test_overlap_ends_at_its_limit() -> None:
    masks = torch.zeros(4, 48, 48, dtype=torch.bool)
    masks[0, 3:9, 3:9] = masks[1, 15:18, 2:20] = True
    maps = torch.randn(4, 48, 48, generator=torch.Generator().manual_seed(0)) + 1.5 * masks
    metrics = PixelMetrics()
    metrics.update(maps, masks)
    pro = float(metrics.compute()["pro"])
    _, x, y = drawn(metrics.curves["pro"])
    assert x[-1] == 0.3
    assert np.trapezoid(y, x) / 0.3 == pytest.approx(pro, abs=STEP / 2)


def test_a_short_curve_is_whole(case) -> None:
    truth, scores = case
    metrics = ImageMetrics()
    metrics.update(torch.from_numpy(scores[:40].round(1)), torch.from_numpy(truth[:40]))
    metrics.compute()
    false, true, thresholds = roc_curve(truth[:40], scores[:40].round(1), drop_intermediate=False)
    for found, expected in zip(metrics.curves["roc"], (thresholds, false, true), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("binned", [False, True])
def test_all_scores_equal(binned: bool) -> None:
    metrics = PixelMetrics(binned)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 2:4] = True
    metrics.update(torch.ones(1, 8, 8), mask)
    metrics.compute()
    ends = {name: drawn(points)[1:] for name, points in metrics.curves.items()}
    assert {name: x.tolist() for name, (x, _) in ends.items()} == {
        "roc": [0, 1],
        "pr": [0, 1],
        "pro": [0, 0.3],
    }
    assert ends["pro"][1][-1] == pytest.approx(0.3)


def test_undefined_curves_are_missing() -> None:
    alone = ImageMetrics()
    alone.update(torch.rand(3), torch.zeros(3))
    alone.compute()
    assert alone.curves == {}
