"""AUPIMO against its definition at every threshold, and against the authors' implementation."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from padim import PixelMetrics
from padim.per_image_overlap import FPR_BOUNDS, MOST_NORMAL, aupimo, highest

BASELINE = Path(__file__).parents[2] / ".venv-baseline" / "bin" / "python"

REFERENCE = """
import sys, torch
from anomalib.metrics.pimo.functional import aupimo_scores
torch.save(aupimo_scores(*torch.load(sys.argv[1]))[4], sys.argv[1])
"""

Image = tuple[Tensor, Tensor, Tensor]
"""Map, mask and ignored pixels."""


def slow_aupimo(images: list[Image]) -> list[float]:
    """Word by word: every threshold, every normal image; NaN of normal images."""
    parts = [[part.numpy() for part in image] for image in images]
    seen = [(scores[~hidden], mask[~hidden]) for scores, mask, hidden in parts]
    normal = [scores for scores, mask in seen if not mask.any()]
    pixels = np.sort(np.concatenate(normal))
    thresholds = np.unique(np.concatenate([scores for scores, _ in seen]))[::-1]
    lowest = pixels[-len(pixels) // 5000]  # at an FPR of about 2e-4
    thresholds = thresholds[(thresholds >= lowest) & (thresholds <= pixels[-1])]
    rates = np.array([np.mean([(n >= t).mean() for n in normal]) for t in thresholds])
    low, high = (rates[abs(rates - bound).argmin()] for bound in FPR_BOUNDS)
    inside = (rates >= low) & (rates <= high)
    areas = []
    for scores, mask in seen:
        recall = [(scores[mask] >= t).sum() / max(mask.sum(), 1) for t in thresholds[inside]]
        area = np.trapezoid(recall, np.log10(rates[inside]))
        areas.append(min(area, 1) if mask.any() else np.nan)
    return areas


def some_images(seed: int, ties: bool, sides: tuple[int, ...] = (144, 120)) -> list[Image]:
    """Three normal images, of which one has most of the highest pixels, and three others a size."""
    rng = np.random.default_rng(seed)
    images = []
    for i, size in enumerate(side for side in sides for _ in range(6)):
        scores = rng.normal(20 + 2 * (i == 4), 2, (size, size))
        mask, hidden = np.zeros((size, size), bool), np.zeros((size, size), bool)
        hidden[:10] = True
        scores[hidden] = 100 * (i == 0)
        if i % 2:
            side = (5, 30, 100)[i // 2 % 3]
            mask[5 : 5 + side, 20 : 20 + side] = True
            scores[mask] += rng.gamma(2, 3, mask.sum())
        scores = np.round(scores, 1) if ties else scores
        images.append((torch.from_numpy(scores).float(), *map(torch.from_numpy, (mask, hidden))))
    return images


def measured(images: list[Image]) -> PixelMetrics:
    metrics = PixelMetrics()
    for image in images:
        metrics.update(*(part[None] for part in image))
    return metrics


@pytest.mark.parametrize("ties", [False, True])
def test_aupimo_is_that_of_its_definition(ties: bool) -> None:
    images = some_images(0, ties)
    expected = slow_aupimo(images)
    metrics = measured(images)
    found = metrics.compute()["aupimo"]
    large = [bool(mask.sum() > 4096) for _, mask, _ in images]
    assert sum(large) == 2
    for one, value, thinned in zip(metrics.aupimo.tolist(), expected, large, strict=True):
        # Of more than 4096 pixels a recall is off by half a step at most.
        assert one == pytest.approx(value, abs=1.3e-4 if thinned else 1e-6, nan_ok=True)
    assert 0.1 < found < 0.9
    assert found == pytest.approx(np.nanmean(expected), abs=1e-4)


def test_two_processes_find_what_one_finds() -> None:
    images = some_images(0, ties=False)
    whole, first, second = (measured(part) for part in (images, images[:4], images[4:]))
    both = PixelMetrics()
    for state in both._defaults:
        setattr(both, state, getattr(first, state) + getattr(second, state))
    both._update_count = 2
    assert both.compute()["aupimo"] == whole.compute()["aupimo"]
    assert torch.equal(both.aupimo.nan_to_num(-1), whole.aupimo.nan_to_num(-1))


def test_memory_does_not_grow_with_normal_images() -> None:
    metrics = PixelMetrics(binned=True)
    for _ in range(4):
        metrics.update(torch.rand(4, 50, 50), torch.zeros(4, 50, 50, dtype=torch.bool))
        assert len(metrics.normal_pixels[0]) <= 2501


def test_too_few_normal_pixels_define_nothing() -> None:
    images = some_images(0, ties=False, sides=(144,))
    metrics = measured(images)
    assert "aupimo" in metrics.compute()
    metrics = measured([*images[:1], *images[3:]])
    assert "pro" in metrics.compute()
    assert "aupimo" not in metrics.compute()
    assert metrics.aupimo is None


def test_equal_normal_scores_and_too_many_images_define_nothing() -> None:
    scores, sizes = torch.tensor([2.0]), torch.tensor([1])
    constant = highest(torch.ones(1_000_000), torch.empty(0).long())
    assert aupimo(constant, 1, scores, sizes) is None
    normal = highest(torch.rand(1_000_000), torch.empty(0).long())
    assert aupimo(normal, 1, scores, sizes) == pytest.approx([1])
    assert aupimo(normal, MOST_NORMAL + 1, scores, sizes) is None


def test_a_perfect_map_that_cannot_have_1_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    normal = highest(torch.rand(150_000), torch.empty(0).long())
    with caplog.at_level("INFO"):
        found = aupimo(normal, 1, torch.tensor([2.0]), torch.tensor([1]))
    assert found == pytest.approx([np.log10(15 / 2)], abs=1e-6)  # 1.5 pixels are the lower bound
    assert "AUPIMO of a perfect map would be 0.88 here: the 1 normal images have few" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(
    not BASELINE.exists(), reason="needs the environment of make benchmark-baseline"
)
def test_aupimo_is_that_of_the_authors(tmp_path: Path) -> None:
    images = some_images(0, ties=False, sides=(224,))
    maps, masks, hidden = map(torch.stack, zip(*images, strict=True))
    maps[hidden] = 0
    metrics = measured(list(zip(maps, masks, torch.zeros_like(hidden), strict=True)))
    metrics.compute()
    torch.save((maps, masks), tmp_path / "images.pt")
    subprocess.run([BASELINE, "-c", REFERENCE, tmp_path / "images.pt"], check=True)
    expected = torch.load(tmp_path / "images.pt")
    # Its thresholds are 300,000 steps between the normal scores.
    torch.testing.assert_close(metrics.aupimo, expected, rtol=0, atol=1e-4, equal_nan=True)
