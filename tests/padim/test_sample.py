import pytest
import torch

from padim.sample import EmbeddingSample, image_keys

CELLS, CHANNELS = (16, 4), (3, 5)


def embedding(n: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = zip(CELLS, CHANNELS, strict=True)
    return [torch.randn(g, d, n, generator=generator) for g, d in sizes]


def sampled(size: int, x: list[torch.Tensor], keys: torch.Tensor, batch: int) -> EmbeddingSample:
    sample = EmbeddingSample(size)
    for i in range(0, len(keys), batch):
        sample.update([level[..., i : i + batch] for level in x], keys[i : i + batch])
    return sample


def assert_same(one: EmbeddingSample, other: EmbeddingSample) -> None:
    assert one.seen == other.seen
    assert torch.equal(one.keys, other.keys)
    assert all(map(torch.equal, one.embedding, other.embedding))


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_neither_batches_nor_order_matter(batch: int) -> None:
    x, keys = embedding(50), image_keys(range(50))
    smallest = keys.argsort()[:8]
    for order in (torch.arange(50), torch.arange(50).flip(0), torch.randperm(50)):
        sample = sampled(8, [level[..., order] for level in x], keys[order], batch)
        assert sample.seen == 50
        assert torch.equal(sample.keys, keys[smallest])
        for kept, level in zip(sample.embedding, x, strict=True):
            assert torch.equal(kept, level[..., smallest])


def test_parts_merge_into_what_one_would_keep() -> None:
    x, keys = embedding(50), image_keys(range(50))
    whole = sampled(8, x, keys, 9)
    for cut in (0, 3, 20, 50):
        part = sampled(8, [level[..., :cut] for level in x], keys[:cut], 6)
        part.merge(sampled(8, [level[..., cut:] for level in x], keys[cut:], 6))
        assert_same(part, whole)


def test_a_smaller_sample_is_the_beginning_of_a_larger_one() -> None:
    x, keys = embedding(50), image_keys(range(50))
    small, large = sampled(8, x, keys, 9), sampled(20, x, keys, 9)
    for one, other in zip(small.embedding, large.embedding, strict=True):
        assert torch.equal(one, other[..., :8])


def test_images_without_keys_are_numbered() -> None:
    sample, x = EmbeddingSample(8), embedding(50)
    for i in range(0, 50, 7):
        sample.update([level[..., i : i + 7] for level in x])
    assert_same(sample, sampled(8, x, image_keys(range(50)), 50))


def test_samples_of_the_same_batches_leave_each_other_alone() -> None:
    batch = embedding(3)
    before = [x.clone() for x in batch]
    first, second = EmbeddingSample(3), EmbeddingSample(3)
    for sample in (first, second):
        sample.update(batch)
    for i in range(20):
        first.update(embedding(3, seed=i))
    expected = [x[..., image_keys(range(3)).argsort()] for x in before]
    assert all(map(torch.equal, second.embedding, expected))
    assert all(map(torch.equal, batch, before))


def test_every_image_is_as_likely_in_the_sample() -> None:
    drawn = torch.zeros(20)
    for seed in range(2000):
        keys = image_keys(f"{seed}/{number}" for number in range(20))
        drawn += torch.isin(keys, sampled(5, embedding(20), keys, 20).keys)
    assert drawn.sum() == 5 * 2000
    assert (drawn / 2000 - 0.25).abs().max() < 0.05  # 5 standard deviations


def test_a_sample_may_be_smaller_than_its_size() -> None:
    sample = sampled(8, embedding(5), image_keys(range(5)), 3)
    assert sample.embedding[0].shape[-1] == sample.seen == 5
    assert EmbeddingSample(8).embedding == []


def test_what_replaces_a_sample_is_not_written_to() -> None:
    x, keys = embedding(4), image_keys(range(4))
    before = [level.clone() for level in x]
    sample = EmbeddingSample(4)
    sample.replace(x, keys, 40)
    sample.update(embedding(30, seed=1), image_keys(range(40, 70)))
    assert sample.seen == 70
    assert len(sample.keys) == 4
    assert all(map(torch.equal, x, before))


def test_keys_are_of_any_name_and_the_same_everywhere() -> None:
    names = ["good/001.png", "good/002.png", "é\udc80/3.png"]
    keys = image_keys(names)
    assert keys.tolist() == image_keys(names[::-1]).tolist()[::-1]
    assert len(set(keys.tolist())) == 3
    assert image_keys(["good/001.png"]).item() == -8062361416691871875
    assert image_keys([]).shape == (0,)
