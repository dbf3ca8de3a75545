import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from padim import AnomalyMap, place_in_original


@pytest.mark.parametrize("resize", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize(("grid", "size"), [((56, 56), (224, 224)), ((20, 15), (320, 250))])
@pytest.mark.parametrize("sigma", [0.0, 1.5, 4.0])
def test_equals_resize_then_scipy_filter(
    resize: str, grid: tuple[int, int], size: tuple[int, int], sigma: float
) -> None:
    distance = torch.rand(2, *grid) * 20
    anomaly_map = AnomalyMap(sigma, resize)
    anomaly_map.prepare(grid, size)
    options = {} if resize == "nearest" else {"align_corners": False}
    resized = F.interpolate(distance[:, None], size, mode=resize, **options)[:, 0].numpy()
    expected = [gaussian_filter(m, sigma) if sigma else m for m in resized]
    np.testing.assert_allclose(anomaly_map(distance), expected, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize(
    ("size", "sigma"), [((224, 224), 4), ((448, 448), 8), ((112, 448), 4), ((64, 64), 8 / 7)]
)
def test_by_default_the_filter_grows_with_the_image(size: tuple[int, int], sigma: float) -> None:
    default, given = AnomalyMap(), AnomalyMap(sigma)
    for anomaly_map in (default, given):
        anomaly_map.prepare((8, 8), size)
    assert default.config == given.config
    distance = torch.rand(1, 8, 8)
    torch.testing.assert_close(default(distance), given(distance))


def test_unknown_resize_lists_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"map\.resize is 'cubic'; choose one of bicubic, bilinear"
    ):
        AnomalyMap(resize="cubic")


def test_negative_sigma_is_refused() -> None:
    with pytest.raises(ValueError, match=r"map\.sigma must be from 0 to 1000 pixels, got -1"):
        AnomalyMap(sigma=-1)


@pytest.mark.parametrize("size", [(90, 120), (20, 17)])
def test_a_map_of_the_whole_image_is_resized(size: tuple[int, int]) -> None:
    anomaly_map = torch.rand(32, 28)
    placed = place_in_original(anomaly_map, torch.tensor([0, 0, *size]), size)
    expected = F.interpolate(anomaly_map[None, None], size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(placed, expected[0, 0], rtol=0, atol=1e-5)


def test_a_map_of_a_part_stays_there() -> None:
    anomaly_map = torch.ones(8, 8)
    anomaly_map[3, 5] = 2
    placed = place_in_original(anomaly_map, torch.tensor([10.0, 20, 18, 28]), (40, 50))
    torch.testing.assert_close(placed[10:18, 20:28], anomaly_map)
    assert placed.sum() == anomaly_map.sum()  # 0 elsewhere
