import numpy as np
import pytest

from padim.regions import Region, find_regions


def boxes(size: tuple[int, int], *places: tuple[slice, slice, float]) -> np.ndarray:
    scores = np.zeros(size, dtype=np.float32)
    for rows, columns, score in places:
        scores[rows, columns] = score
    return scores


def test_a_region_has_its_box_area_and_peak() -> None:
    scores = boxes((20, 30), (slice(4, 9), slice(10, 12), 3.0))
    scores[7, 11] = 5
    assert find_regions(scores, 2, (0, 0, 20, 30), (20, 30)) == [
        Region(4, 10, 9, 12, 10.0, 5.0, 7, 11)
    ]


def test_the_highest_comes_first_and_corners_connect() -> None:
    scores = boxes((10, 10), (slice(0, 2), slice(0, 2), 2.0), (slice(2, 4), slice(2, 4), 2.5))
    scores[8, 8] = 9
    found = find_regions(scores, 2, (0, 0, 10, 10), (10, 10))
    assert [region.peak for region in found] == [9, 2.5]
    assert found[1][:5] == (0, 0, 4, 4, 8.0)


def test_none_above_the_threshold() -> None:
    assert find_regions(np.ones((5, 5)), 2, (0, 0, 5, 5), (5, 5)) == []


@pytest.mark.parametrize("window", [(0, 0, 400, 600), (50, 20, 450, 620), (-40, 0, 440, 600)])
def test_everything_is_told_in_pixels_of_the_original(window: tuple[float, ...]) -> None:
    """Against the box of a defect drawn in the original and brought to the map by hand."""
    size, shape = (400, 600), (40, 60)
    top, left, bottom, right = window
    rows = top + (np.arange(shape[0]) + 0.5) * (bottom - top) / shape[0]
    columns = left + (np.arange(shape[1]) + 0.5) * (right - left) / shape[1]
    defect = (100, 300, 180, 360)
    inside = (rows > defect[0]) & (rows < defect[2]), (columns > defect[1]) & (columns < defect[3])
    scores = (inside[0][:, None] & inside[1]).astype(np.float32)
    (found,) = find_regions(scores, 0.5, window, size)
    pixel = max((bottom - top) / shape[0], (right - left) / shape[1])
    np.testing.assert_allclose(found[:4], defect, atol=pixel)
    assert found.area == pytest.approx(80 * 60, rel=0.35)
    assert defect[0] <= found.row < defect[2]
    assert defect[1] <= found.column < defect[3]


def test_padding_is_in_no_region() -> None:
    scores = np.ones((10, 10))
    (found,) = find_regions(scores, 0.5, (-40, 0, 160, 200), (100, 200))
    assert found[:5] == (0, 0, 100, 200, 100 * 200)


def test_a_region_extends_to_what_is_connected() -> None:
    scores = boxes((12, 12), (slice(1, 5), slice(1, 5), 1.0), (slice(7, 9), slice(2, 11), 1.0))
    scores[4, 4] = 3
    scores[5, 5] = scores[6, 6] = 1.5  # a bridge of corners to the second box
    scores[0, 11] = 1.9  # below the threshold, and alone
    scores[11, 0] = 4
    first, second = find_regions(scores, 2, (0, 0, 24, 24), (24, 24), extent=1)
    assert first == Region(22, 0, 24, 2, 4.0, 4.0, 23, 1)
    assert second == Region(2, 2, 18, 22, 4.0 * (16 + 18 + 2), 3.0, 9, 9)
    alone = find_regions(scores, 2, (0, 0, 24, 24), (24, 24))
    assert [region.area for region in alone] == [4, 4]
