import numpy as np
import pytest
import torch

from padim import (
    AllChannels,
    OrthogonalProjection,
    PrincipalComponents,
    RandomChannels,
    VarianceChannels,
)
from padim.reduction import Reduction, reduction_from_config


def covariance(d: int = 6) -> torch.Tensor:
    samples = torch.randn(50, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (samples * torch.arange(1, d + 1)).T.cov()


def test_draw_depends_on_its_seed_alone() -> None:
    first = RandomChannels(100, seed=3).channels(448)
    torch.manual_seed(0)
    torch.rand(17)
    assert torch.equal(first, RandomChannels(100, seed=3).channels(448))
    assert not torch.equal(first, RandomChannels(100, seed=4).channels(448))


def test_draw_has_d_distinct_sorted_channels() -> None:
    channels = RandomChannels(100).channels(448)
    assert len(channels.unique()) == 100
    assert torch.equal(channels, channels.sort().values)
    assert channels.min() >= 0
    assert channels.max() < 448


def test_draws_of_one_seed_are_nested() -> None:
    small, large = (set(RandomChannels(d, 5).channels(448).tolist()) for d in (50, 200))
    assert small < large


def test_all_channels() -> None:
    assert torch.equal(AllChannels().channels(5), torch.arange(5))
    assert torch.equal(RandomChannels(5).channels(5), torch.arange(5))


def test_orthogonal_directions_are_orthonormal_nested_and_drawn_by_the_seed_alone() -> None:
    torch.manual_seed(17)
    small, large = (OrthogonalProjection(d, seed=3).projection(20) for d in (4, 9))
    torch.testing.assert_close(large.T @ large, torch.eye(9), rtol=0, atol=1e-6)
    torch.testing.assert_close(large[:, :4], small, rtol=0, atol=1e-6)
    assert not torch.allclose(small, OrthogonalProjection(4, seed=4).projection(20))


def test_orthogonal_directions_prefer_none() -> None:
    """Their mean over draws is 0 and their mean projector (d / total) I, as for no other law."""
    drawn = torch.stack([OrthogonalProjection(2, seed).projection(4) for seed in range(2000)])
    # Standard errors: 0.5 / sqrt(2000) = 0.011 an entry.
    torch.testing.assert_close(drawn.mean(0), torch.zeros(4, 2), rtol=0, atol=0.05)
    projectors = (drawn @ drawn.mT).mean(0)
    torch.testing.assert_close(projectors, torch.eye(4) / 2, rtol=0, atol=0.05)


@pytest.mark.parametrize("order", ["most", "least"])
def test_principal_components_are_those_of_the_covariance(order: str) -> None:
    found = PrincipalComponents(2, order).learn(covariance()).projection(6)
    _, singular, rows = np.linalg.svd(covariance().numpy())
    expected = rows[:2] if order == "most" else rows[:-3:-1]
    # Signs are open.
    overlap = np.abs(expected @ found.numpy())
    np.testing.assert_allclose(overlap, np.eye(2), atol=1e-6)
    assert singular[0] > singular[-1]


@pytest.mark.parametrize(("order", "expected"), [("most", [3, 4, 5]), ("least", [0, 1, 2])])
def test_channels_of_most_and_of_least_variance(order: str, expected: list[int]) -> None:
    assert VarianceChannels(3, order).learn(covariance()).channels(6).tolist() == expected


def test_an_order_there_is_not() -> None:
    with pytest.raises(
        ValueError, match=r"reduction.order is 'highest'; choose one of most, least"
    ):
        VarianceChannels(3, "highest")


@pytest.mark.parametrize("d", [0, -3, 449])
@pytest.mark.parametrize("kind", [RandomChannels, PrincipalComponents, VarianceChannels])
def test_impossible_d_names_both_numbers(kind: type[RandomChannels], d: int) -> None:
    with pytest.raises(ValueError, match=rf"reduction.d is {d}, but the layers have 448 channels"):
        kind(d).channels(448)


def test_impossible_d_of_a_projection() -> None:
    with pytest.raises(ValueError, match=r"reduction.d is 30, but the layers have 20 channels"):
        OrthogonalProjection(30).projection(20)
    assert OrthogonalProjection(30, clip=True).projection(20).shape == (20, 20)


def test_clipped_to_the_channels_there_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert torch.equal(RandomChannels(550, clip=True).channels(176), torch.arange(176))
    assert "reduction.d is 550: all 176 channels are kept" in caplog.text
    with pytest.raises(ValueError, match=r"reduction\.d is 0"):
        RandomChannels(0, clip=True).channels(176)


@pytest.mark.parametrize(
    "reduction",
    [
        RandomChannels(7, 2),
        RandomChannels(99, clip=True),
        AllChannels(),
        OrthogonalProjection(5, 3),
        PrincipalComponents(4, "least"),
        VarianceChannels(4, clip=True),
    ],
)
def test_config_rebuilds_the_reduction(reduction: Reduction) -> None:
    twin = reduction_from_config(reduction.config)
    assert type(twin) is type(reduction)
    assert twin.config == reduction.config
    assert torch.equal(twin.channels(20), reduction.channels(20))
