import pytest
import torch

from padim import ImageScore

MAPS = torch.arange(200.0).view(2, 10, 10)
DISTANCE = torch.tensor([[[1.0, 7.0]], [[500.0, 3.0]]])
COARSE = torch.tensor([[[10.0]], [[20.0]]])


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (ImageScore(), [99, 199]),
        (ImageScore("max_raw"), [7, 500]),
        (ImageScore("topk_mean", top=0.04), [97.5, 197.5]),
        (ImageScore("topk_mean", top=1e-6), [99, 199]),  # at least one pixel
        (ImageScore("topk_mean", top=1), [49.5, 149.5]),
    ],
)
def test_kinds(score: ImageScore, expected: list[float]) -> None:
    assert score([DISTANCE], MAPS).tolist() == expected


def test_distances_of_several_grids_are_summed_on_the_finest() -> None:
    assert ImageScore("max_raw")([COARSE, DISTANCE], MAPS).tolist() == [17, 520]


def test_unknown_kind_lists_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"score\.kind is 'mean'; choose one of max, max_raw, topk"
    ):
        ImageScore("mean")


@pytest.mark.parametrize("top", [0, -0.1, 1.5])
def test_share_outside_its_range(top: float) -> None:
    with pytest.raises(ValueError, match=rf"score\.top .* got {top}"):
        ImageScore("topk_mean", top)
