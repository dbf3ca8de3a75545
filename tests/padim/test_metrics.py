import numpy as np
import pytest
import torch
from scipy.ndimage import label as label_regions
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from padim.curve import BINS
from padim.metrics import ImageMetrics, PixelMetrics, region_weights


def slow_pro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """PRO word by word: every threshold, every region."""
    regions = []
    for i, mask in enumerate(masks):
        labels, count = label_regions(mask, structure=np.ones((3, 3)))
        regions += [(i, labels == r) for r in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        fpr = (found & ~masks).sum() / (~masks).sum()
        points.append((fpr, np.mean([found[i][region].mean() for i, region in regions])))
    x, y = np.array(points).T
    grid = np.unique(np.append(x[x <= limit], limit))
    # At a vertical step interp takes one end; the trapezoids need both.
    inside = x <= limit
    x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    assert grid[-1] == limit
    return float(np.trapezoid(y, x) / limit)


def random_case(seed: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, 24, 24), bool)
    masks[0, 3:9, 3:9] = True
    masks[0, 9:12, 9:14] = True  # touches the first at a corner: one region
    masks[1, 15:18, 2:20] = True
    masks[1, 2, 2] = True
    masks[2, 5:20, 5:9] = True
    maps = rng.normal(size=masks.shape) + 1.5 * masks
    maps = np.round(maps, 1) if ties else maps
    return maps.astype(np.float32), masks


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_metrics_equal_their_references(seed: int, ties: bool) -> None:
    maps, masks = random_case(seed, ties)
    metrics = PixelMetrics()
    for i in range(0, 4, 2):
        metrics.update(torch.from_numpy(maps[i : i + 2]), torch.from_numpy(masks[i : i + 2]))
    found = {name: float(value) for name, value in metrics.compute().items()}
    truth, scores = masks.ravel(), maps.ravel()
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert found["ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-6)
    assert found["f1_max"] == pytest.approx(f1.max(), abs=1e-6)
    assert found["f1_max_threshold"] == pytest.approx(thresholds[f1.argmax()], abs=1e-6)
    assert found["pro"] == pytest.approx(slow_pro(maps, masks), abs=1e-6)


@pytest.mark.parametrize(("centre", "spread"), [(15, 3), (12, 0.3), (-4, 0.5), (1e-3, 1e-4)])
def test_binned_metrics_differ_by_less_than_a_thousandth(centre: float, spread: float) -> None:
    _, masks = random_case(0, ties=False)
    masks = masks.repeat(4, axis=1).repeat(4, axis=2)
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(centre + spread * (rng.normal(size=masks.shape) + 1.5 * masks)).float()
    exact, binned = PixelMetrics(), PixelMetrics(binned=True)
    for i in range(4):
        for metrics in (exact, binned):
            metrics.update(maps[i : i + 1], torch.from_numpy(masks[i : i + 1]))
            metrics.update(maps[:0], maps[:0])
    expected, found = exact.compute(), binned.compute()
    for name in ("auroc", "ap", "f1_max", "pro"):
        assert float(found[name]) == pytest.approx(float(expected[name]), abs=1e-3)
    threshold = "f1_max_threshold"
    assert float(found[threshold]) == pytest.approx(float(expected[threshold]), abs=spread / 5)


def test_binned_metrics_do_not_grow() -> None:
    metrics = PixelMetrics(binned=True)
    for _ in range(2):
        metrics.update(torch.rand(8, 32, 32), torch.rand(8, 32, 32) > 0.9)
        states = [tensor for state in (metrics.samples, metrics.counts) for tensor in state]
        assert sum(state.nbytes for state in states) == 3 * 8 * BINS


def test_many_pixels_are_binned(monkeypatch, caplog) -> None:
    monkeypatch.setattr("padim.metrics.MOST_EXACT", 2 * 32 * 32)
    maps = torch.rand(4, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = maps.roll(3) > 0.9
    automatic, exact, binned = (PixelMetrics(choice) for choice in (None, False, True))
    with caplog.at_level("INFO"):
        for i in range(4):
            for metrics in (automatic, exact, binned):
                metrics.update(maps[i : i + 1], masks[i : i + 1])
            if i == 1:
                assert automatic.compute() == exact.compute()
    assert automatic.compute() == binned.compute() != exact.compute()
    assert caplog.text.count("million scores are binned") == 1
    # Of two processes one may have more than the other, which kept its scores.
    shared, rest = PixelMetrics(), PixelMetrics(False)
    rest.update(maps[2:], masks[2:])
    for i in range(2):
        shared.update(maps[i : i + 1], masks[i : i + 1])
    first = PixelMetrics(True)
    first.update(maps[:2], masks[:2])
    shared.samples, shared.counts = rest.samples, first.counts
    shared._computed = None
    assert shared.compute() == binned.compute()


def test_binned_metrics_say_when_bins_are_too_coarse(caplog: pytest.LogCaptureFixture) -> None:
    metrics = PixelMetrics(binned=True)
    masks = torch.rand(8, 32, 32) > 0.5
    metrics.update(1 + 1e-5 * torch.rand(8, 32, 32), masks)
    assert float(metrics.compute()["auroc"]) == 0.5
    assert "binning changes the AUROC by up to 0.5" in caplog.text


@pytest.mark.parametrize("seed", range(3))
def test_image_metrics_equal_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(size=60) + labels, 1).astype(np.float32)  # ties, negative values
    metrics = ImageMetrics()
    metrics.update(torch.from_numpy(scores), torch.from_numpy(labels))
    found = metrics.compute()
    assert float(found["auroc"]) == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert float(found["ap"]) == pytest.approx(average_precision_score(labels, scores), abs=1e-6)


def test_equal_scores_say_nothing() -> None:
    metrics = ImageMetrics()
    metrics.update(torch.ones(10), torch.arange(10) % 2)
    assert float(metrics.compute()["auroc"]) == 0.5


def test_positive_and_negative_zero_are_a_tie() -> None:
    metrics = ImageMetrics()
    metrics.update(torch.tensor([0.0, -0.0]), torch.tensor([1, 0]))
    assert float(metrics.compute()["auroc"]) == 0.5


def test_perfect_separation() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 2:4, 2:4] = True
    metrics = PixelMetrics()
    metrics.update(masks.float(), masks)
    found = metrics.compute()
    assert all(float(found[name]) == 1 for name in ("auroc", "ap", "f1_max", "pro"))


@pytest.mark.parametrize("binned", [False, True])
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_kind_of_image_defines_no_metric(labels: list[int], binned: bool) -> None:
    metrics = ImageMetrics(binned)
    metrics.update(torch.rand(3), torch.tensor(labels))
    assert metrics.compute() == {}


def test_regions_smaller_than_a_cell_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 0, 0] = masks[0, 1, 1] = masks[0, 8, 8] = True  # two regions, of 2 pixels and of 1
    masks[1, :4, :4] = masks[1, 8:12, 8:12] = masks[1, 0, 8:] = True  # of 16, 16 and 8 pixels
    with caplog.at_level("INFO"):
        for cell, small in ((1, 0), (2, 0), (3, 2), (16, 3), (17, 5)):
            metrics = PixelMetrics()
            for i in range(2):
                metrics.update(torch.rand(1, 16, 16), masks[i : i + 1], cell=cell)
            caplog.clear()
            metrics.compute()
            said = f"{small} of 5 defects are smaller than a cell of the finest feature map, {cell}"
            assert (said in caplog.text) == (small > 1)


def test_region_weights_sum_to_the_number_of_regions() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = True  # touch at a corner: one region of two pixels
    mask[4, 2:6] = True
    weights = region_weights(mask)
    assert weights[0, 0] == weights[1, 1] == 0.5
    assert weights[4, 2] == 0.25
    assert weights.sum() == 2
    assert not region_weights(np.zeros((3, 3), bool)).any()


@pytest.mark.parametrize("rate", [0.01, 0.29, 0.5])
def test_recall_is_that_at_the_false_alarm_rate(rate: float) -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 100)  # of 100 normal ones 29 are a rate of 0.29, but 0.29 * 100 < 29
    scores = np.round(rng.normal(size=200) + labels, 1).astype(np.float32)
    metrics = ImageMetrics(false_alarm_rate=rate)
    metrics.update(torch.from_numpy(scores), torch.from_numpy(labels))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert float(metrics.compute()["recall_at_far"]) == tpr[fpr <= rate].max()


def test_bootstrap_interval_is_as_wide_as_theory_says() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [150, 250])
    scores = (rng.normal(size=400) + labels).astype(np.float32)
    found = {}
    for _ in range(2):
        metrics = ImageMetrics(false_alarm_rate=0.1, resamples=500)
        metrics.update(torch.from_numpy(scores), torch.from_numpy(labels))
        before, found = found, {name: float(value) for name, value in metrics.compute().items()}
    assert found == before
    for name in ("auroc", "ap", "f1_max", "recall_at_far"):
        assert found[f"{name}_ci_low"] < found[name] < found[f"{name}_ci_high"]
    # DeLong's standard error; that of 500 resamples is uncertain by 3 %, its quantiles by twice it.
    better = scores[labels == 1][:, None] > scores[labels == 0]
    error = np.sqrt(better.mean(axis=1).var() / 250 + better.mean(axis=0).var() / 150)
    width = found["auroc_ci_high"] - found["auroc_ci_low"]
    assert width == pytest.approx(2 * 1.96 * error, rel=0.15)


@pytest.mark.parametrize("binned", [False, True])
def test_a_single_normal_image_has_no_interval(binned: bool) -> None:
    metrics = ImageMetrics(binned, resamples=100)
    metrics.update(torch.rand(5), torch.tensor([0, 1, 1, 1, 1]))
    assert metrics.compute().keys() == {"auroc", "ap", "f1_max", "f1_max_threshold"}
