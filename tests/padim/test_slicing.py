import pytest
import torch

from padim import (
    AllChannels,
    Backbone,
    ChosenChannels,
    ModelSlice,
    OrthogonalProjection,
    PaDiM,
    PatchGaussian,
    PrincipalComponents,
    RandomChannels,
    VarianceChannels,
    channels_by_layer,
    union_of_channels,
)
from padim.reduction import Reduction

IMAGES = torch.randint(0, 255, (12, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
LAYERS = ["layer1", "layer2", "layer3"]


REDUCTIONS = [
    AllChannels(),
    RandomChannels(9, seed=4),
    OrthogonalProjection(7, seed=4),
    PrincipalComponents(8),
    VarianceChannels(9),
]


def backbone(layers: list[str]) -> Backbone:
    torch.manual_seed(0)
    return Backbone("test_resnet", layers, "random", image_size=(64, 64))


@pytest.mark.parametrize("layers", [["layer1"], ["layer3"], ["layer1", "layer3"], LAYERS[::-1]])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: r.config["kind"])
@pytest.mark.parametrize("shrinkage", [0.0, "auto"])
def test_a_part_is_what_it_would_be_alone(
    layers: list[str], reduction: Reduction, shrinkage: float | str
) -> None:
    alone = PaDiM(backbone(layers), reduction, PatchGaussian(shrinkage=shrinkage))
    alone.update(IMAGES)
    alone.finalize()

    wide = backbone(LAYERS)
    part = PaDiM(wide.narrowed(layers), reduction, PatchGaussian(shrinkage=shrinkage))
    other = PaDiM(wide.narrowed(["layer2", "layer1"]), RandomChannels(30))
    union = union_of_channels([channels_by_layer(m) for m in (part, other)], wide.layers)
    union = ChosenChannels.of_layers(union, [layer.channels for layer in wide.layers])
    whole = PaDiM(wide, union, PatchGaussian(shrinkage=shrinkage))
    whole.update(IMAGES)
    ModelSlice(whole, part).fit()
    sliced = ModelSlice(whole, part)
    features = whole.embed(wide(IMAGES[:3]))
    torch.testing.assert_close(
        part.score(sliced.embedding(features)).maps, alone(IMAGES[:3]).maps, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(part(IMAGES[:3]).maps, alone(IMAGES[:3]).maps, rtol=1e-5, atol=1e-5)


def test_the_union_holds_what_any_part_uses_once() -> None:
    wide = backbone(LAYERS)
    parts = [PaDiM(wide.narrowed(LAYERS[:2]), RandomChannels(5, seed)) for seed in range(3)]
    union = union_of_channels([channels_by_layer(part) for part in parts], wide.layers)
    whole = ChosenChannels.of_layers(union, [layer.channels for layer in wide.layers])
    expected = {int(c) for seed in range(3) for c in RandomChannels(5, seed).channels(32 + 48)}
    assert whole.indices.tolist() == sorted(expected)
    assert not len(union[2])


def test_grids_that_the_whole_has_not() -> None:
    whole = PaDiM(backbone(["layer1"]), AllChannels())
    with pytest.raises(ValueError, match="are not all among"):
        ModelSlice(whole, PaDiM(backbone(["layer1", "layer2"]), AllChannels()))


def test_layers_that_the_backbone_has_not() -> None:
    with pytest.raises(ValueError, match=r"layers \['layer4'\] are not all among \['layer1'"):
        backbone(LAYERS).narrowed(["layer4"])
