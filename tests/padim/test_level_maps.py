import pytest
import torch

from padim import AllChannels, Backbone, OrthogonalProjection, PaDiM, PatchGaussian, RandomChannels
from padim.level_maps import level_maps


def fitted(**parts: object) -> PaDiM:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", [1, 2, 3], "random", image_size=(64, 96))
    model = PaDiM(backbone, **{"reduction": RandomChannels(20), **parts})
    model.update(images(30))
    model.finalize()
    return model


def images(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 64, 96), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({}, ["layer1", "layer2", "layer3"]),
        ({"gaussian": PatchGaussian(ensemble="sum")}, ["layer1", "layer2", "layer3"]),
        ({"reduction": OrthogonalProjection(12)}, ["all"]),
    ],
)
def test_the_parts_sum_to_the_maps(parts: dict[str, object], names: list[str]) -> None:
    model = fitted(**parts)
    x = images(4, seed=1)
    found = level_maps(model, model.embed(model.backbone(x)))
    assert [name.rpartition(".")[2] for name in found] == names
    total = torch.stack(list(found.values())).sum(dim=0)
    torch.testing.assert_close(total, model(x).maps, rtol=1e-5, atol=1e-5)


def test_what_one_level_sees_is_its_part() -> None:
    """With the coarse levels' features at their mean, only the finest has a part."""
    model = fitted(reduction=AllChannels())
    embedding = model.embed(model.backbone(images(2, seed=1)))
    for level in (1, 2):
        embedding[level][:] = model.statistics.mean(level).unsqueeze(-1)
    fine, *coarse = level_maps(model, embedding).values()
    assert fine.mean() > 1
    for part in coarse:
        torch.testing.assert_close(part, torch.zeros_like(part), rtol=0, atol=1e-6)
