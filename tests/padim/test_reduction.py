import pytest
import torch

from padim import AllChannels, RandomChannels
from padim.reduction import reduction_from_config


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


@pytest.mark.parametrize("d", [0, -3, 449])
def test_impossible_d_names_both_numbers(d: int) -> None:
    with pytest.raises(ValueError, match=rf"reduction.d is {d}, but the layers have 448 channels"):
        RandomChannels(d).channels(448)


def test_clipped_to_the_channels_there_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert torch.equal(RandomChannels(550, clip=True).channels(176), torch.arange(176))
    assert "reduction.d is 550: all 176 channels are kept" in caplog.text
    with pytest.raises(ValueError, match=r"reduction\.d is 0"):
        RandomChannels(0, clip=True).channels(176)


@pytest.mark.parametrize(
    "reduction", [RandomChannels(7, 2), RandomChannels(99, clip=True), AllChannels()]
)
def test_config_rebuilds_the_reduction(reduction: RandomChannels | AllChannels) -> None:
    twin = reduction_from_config(reduction.config)
    assert torch.equal(twin.channels(20), reduction.channels(20))
