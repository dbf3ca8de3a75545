from pathlib import Path

import numpy as np
import pytest

from experiments.drawing.anomaly_curve import draw_anomaly_curve
from experiments.drawing.pictures import GROUND_TRUTH, Scale, draw, outline, stack


def test_outline_follows_the_border_of_the_region() -> None:
    region = np.zeros((12, 12), bool)
    region[4:9, 3:8] = True
    drawn = (outline(np.zeros((12, 12, 3), np.uint8), region, GROUND_TRUTH) == GROUND_TRUTH).all(
        axis=2
    )
    assert drawn[4, 3:8].all()  # the first row inside
    assert drawn[3, 3:8].all()  # and the one outside
    assert not drawn[6, 5]
    assert not drawn[1, 1]


def test_good_images_look_calm_beside_strong_anomalies() -> None:
    maps = np.full((4, 16, 16), 10.0)
    maps[3, 8, 8] = 100.0
    scale = Scale.of(maps)
    normal, peak = scale.colours(np.array([10.0, 100.0])).astype(int).sum(axis=1)
    assert normal < 60 < 500 < peak


def test_a_run_of_good_images_looks_calm() -> None:
    scale = Scale.of(np.random.default_rng(0).normal(10, 1, (4, 16, 16)))
    assert scale.colours(np.array([13.0])).astype(int).sum() < 200


@pytest.mark.parametrize(
    ("mask", "threshold", "columns"), [(True, 3.0, 4), (False, 3.0, 3), (False, None, 2)]
)
def test_a_row_has_a_column_for_all_that_is_known(
    mask: bool, threshold: float | None, columns: int
) -> None:
    image = np.full((40, 50, 3), 90, np.uint8)
    rows, cols = np.mgrid[:40, :50]
    anomaly_map = (rows + cols) / 10
    picture = draw(
        image, anomaly_map, Scale(0, 9), "title", anomaly_map > 5 if mask else None, threshold
    )
    bare = draw(image, anomaly_map, Scale(0, 9), "title")
    assert picture.width - bare.width == (columns - 2) * (50 + 8)
    assert stack([picture, bare]).size == (picture.width, 2 * picture.height)


@pytest.mark.parametrize("name", ["cl\udcffip.avi", "$a_$.avi"])
def test_a_curve_of_a_video_of_any_name(tmp_path: Path, name: str) -> None:
    draw_anomaly_curve([0, 1], [1, 2], name, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size
