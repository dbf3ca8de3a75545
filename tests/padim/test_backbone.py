"""The backbone against forward hooks on timm's uncut model, normalised by hand."""

import math
from importlib.resources import files

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from padim.backbone import AT_ONCE, Backbone, Layer
from padim.weights import create_network

# Model, layers, image size, and how a hook's output becomes a map: "NCHW", "NHWC", or the number
# of class, distillation and register tokens that stand before the patches.
CASES = [
    ("resnet18", ["layer1", "layer2", "layer3"], (64, 96), "NCHW"),
    ("tf_efficientnet_lite0", ["blocks.1", "blocks.2.1", "blocks.4"], (64, 64), "NCHW"),
    ("convnext_atto", ["stages.0", "stages.1", "stages.2"], (64, 64), "NCHW"),
    ("test_convnext", ["stages.1.blocks.0.mlp"], (64, 96), "NHWC"),
    ("swin_tiny_patch4_window7_224", ["layers.0", "layers.1"], (64, 96), "NHWC"),
    ("vit_tiny_patch16_224", ["blocks.1", "blocks.3"], (64, 96), 1),
    ("deit_tiny_distilled_patch16_224", ["blocks.0"], (64, 64), 2),
    ("vit_small_patch16_dinov3", ["blocks.0", "blocks.1"], (64, 96), 5),
    # What follows these works in place on their output.
    ("test_resnet", ["bn1", "layer1.0.bn2", "layer1"], (64, 64), "NCHW"),
    # Out of order, and one inside the other.
    ("test_resnet", ["layer2", "layer1.0.conv1", "layer1", "layer2.0"], (64, 64), "NCHW"),
]


def pixels(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(256, (count, 3, height, width), generator=generator).to(torch.uint8)


def random_network(name: str, image_size: tuple[int, int]) -> nn.Module:
    """timm's model with every weight and statistic away from its initial 0 or 1."""
    torch.manual_seed(0)
    size = {"img_size": image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    network = timm.create_model(name, **size).eval()
    with torch.no_grad():
        for value in network.parameters():
            value.add_(torch.randn_like(value), alpha=0.05)
        for key, value in network.named_buffers():
            if key.endswith("running_mean"):
                value.normal_()
            elif key.endswith("running_var"):
                value.uniform_(0.5, 2)
    return network


@torch.no_grad()
def hooked(network: nn.Module, layers: list[str], images: Tensor) -> list[Tensor]:
    """What each layer gives when the whole network runs."""
    outputs: dict[str, Tensor] = {}
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda _, __, output, key=layer: outputs.update({key: output.clone()})
        )
    mean = torch.tensor(network.pretrained_cfg["mean"]).view(3, 1, 1)
    std = torch.tensor(network.pretrained_cfg["std"]).view(3, 1, 1)
    network((images / 255 - mean) / std)
    return [outputs[layer] for layer in layers]


def as_map(output: Tensor, form: str | int, image_size: tuple[int, int]) -> Tensor:
    if form == "NCHW":
        return output
    if form == "NHWC":
        return output.permute(0, 3, 1, 2)
    height, width = image_size[0] // 16, image_size[1] // 16
    grid = torch.empty(len(output), output.shape[2], height, width)
    for row in range(height):
        for column in range(width):
            grid[:, :, row, column] = output[:, form + row * width + column]
    return grid


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal up to float32 rounding, measured against the largest value of the map."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def make(name: str = "test_resnet", layers: object = ("layer1", "layer2"), **options) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, layers, **{"weights": "random", "image_size": (64, 64), **options})


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers", "image_size", "form"), CASES)
def test_maps_equal_the_uncut_model(name, layers, image_size, form, tmp_path):
    network = random_network(name, image_size)
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    images = pixels(2, *image_size)
    expected = [as_map(o, form, image_size) for o in hooked(network, layers, images)]

    backbone = Backbone(name, layers, str(path), image_size)
    path.unlink()
    maps = backbone(images)

    # Memory formats differ, hence the order of sums: 1.4e-6 at most was seen.
    for actual, reference in zip(maps, expected, strict=True):
        assert actual.dtype == torch.float32
        close(actual, reference)
    assert backbone.layers == tuple(
        Layer(n, m.shape[1], tuple(m.shape[2:])) for n, m in zip(layers, expected, strict=True)
    )


def test_state_dict_brings_the_same_maps():
    # Swin's holds constants that tracing has computed from the image size.
    name, layers = "swin_tiny_patch4_window7_224", ["layers.0"]
    source, target = make(name, layers), make(name, layers, weights=None)
    with torch.no_grad():
        for value in source.parameters():
            value.mul_(1.1)
    target.load_state_dict(source.state_dict())
    images = pixels(1, 64, 64)
    assert torch.equal(source(images)[0], target(images)[0])


def test_efficientnet_b5_has_the_blocks_of_the_paper():
    layers = ["blocks.1.3", "blocks.3.6", "blocks.4.5"]
    backbone = make("tf_efficientnet_b5", layers)
    assert backbone.layers == (
        Layer("blocks.1.3", 40, (16, 16)),
        Layer("blocks.3.6", 128, (4, 4)),
        Layer("blocks.4.5", 176, (4, 4)),
    )
    with torch.device("meta"):
        stages = timm.create_model("tf_efficientnet_b5").blocks
    blocks = [f"blocks.{s}.{b}" for s, stage in enumerate(stages) for b in range(len(stage))]
    assert [blocks.index(layer) + 1 for layer in layers] == [7, 20, 26]


@pytest.mark.parametrize(
    ("preset", "name", "layers"),
    [
        ("resnet18", "resnet18.tv_in1k", ["layer1", "layer2", "layer3"]),
        ("wide_resnet50_2", "wide_resnet50_2.tv_in1k", ["layer1", "layer2", "layer3"]),
        (
            "efficientnet_b5",
            "tf_efficientnet_b5.aa_in1k",
            ["blocks.1.3", "blocks.3.6", "blocks.4.5"],
        ),
    ],
)
def test_presets_are_the_networks_of_the_paper(preset, name, layers):
    config = yaml.safe_load((files("conf") / "backbone" / f"{preset}.yaml").read_text())
    assert (config["name"], config["layers"], config["weights"]) == (name, layers, "hub")
    assert name in timm.list_pretrained()


def test_index_equals_name():
    images = pixels(1, 64, 64)
    # timm's maps of a ResNet: act1, layer1, layer2, layer3, layer4.
    by_index, by_name = make(layers=[1, -2]), make(layers=["layer1", "layer3"])
    assert by_index.layers == by_name.layers
    for a, b in zip(by_index(images), by_name(images), strict=True):
        assert torch.equal(a, b)


def test_config_builds_the_same_backbone():
    backbone = make(layers=[1, -2], bf16=True, image_size=(64, 96))
    assert make(**backbone.config).config == backbone.config
    assert backbone.config["layers"] == ["layer1", "layer3"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            ["layer5"],
            r"test_resnet has no layer 'layer5'\. Its feature maps, by index from 0: act1 \(32"
            r" channels, stride 2\), layer1 \(32 channels, stride 4\), .*near in name: .*layer4",
        ),
        ([5], r"has no layer 5\. .*layer4 \(96 channels, stride 32\)"),
        ([-6], r"has no layer -6\."),
        ([""], r"has no layer ''"),
        ([], r"must name at least one layer, each once; got \[\]"),
        (["layer1", 1], r"each once; got \['layer1', 'layer1'\]"),
        (["global_pool"], r"layer global_pool of test_resnet gives a tensor of shape \(1, 96\)"),
        (["layer1", "fc"], r"layer fc of test_resnet gives .* no map over the image"),
    ],
)
def test_wrong_layers(layers, message):
    with pytest.raises(ValueError, match=message):
        make(layers=layers)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("head", r"layer head of test_vit gives a tensor of shape \(1, 1000\), which is no map"),
        # The fused attention does without this module.
        (
            "blocks.0.attn.attn_drop",
            r"layer blocks\.0\.attn\.attn_drop of test_vit is never called",
        ),
    ],
)
def test_layers_without_a_map_in_a_transformer(layer, message):
    with pytest.raises(ValueError, match=message):
        make("test_vit", [layer])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "timm has no model named 'resnet19'; did you mean .*resnet18"),
        ("Qqqqqqqqqqqqqq", "no model named 'Qqqqqqqqqqqqqq'; see timm.list_models"),
        ("resnet18.tv_in2k", r"no weights 'resnet18\.tv_in2k'; it has .*resnet18\.tv_in1k"),
    ],
)
def test_unknown_model(name, message):
    with pytest.raises(ValueError, match=message):
        make(name)


@pytest.mark.parametrize(
    ("name", "layers", "image_size", "message"),
    [
        ("test_vit", ["blocks.1"], (70, 96), "70x96 pixels .* 16x16 patches .* use 64x96"),
        # Its graph asks for a mask that is not there.
        (
            "hiera_tiny_224",
            ["blocks.1"],
            (224, 224),
            "hiera_tiny_224 does not run on images of 224",
        ),
    ],
)
def test_image_size_or_model_that_does_not_work(name, layers, image_size, message):
    with pytest.raises(ValueError, match=message):
        make(name, layers, image_size=image_size)


def test_model_that_cannot_be_traced(monkeypatch):
    class Fickle(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.mean() > 0 else -x

    def fickle_network(*_) -> nn.Module:
        network = create_network("test_resnet", False, (64, 64))
        network.maxpool = Fickle()
        return network

    monkeypatch.setattr("padim.backbone.create_network", fickle_network)
    with pytest.raises(
        ValueError, match=r"test_resnet cannot be traced, .*choose another backbone"
    ):
        make(layers=["layer1"])


def test_nothing_is_kept_behind_the_last_layer():
    whole = timm.create_model("resnet18").state_dict()
    backbone = make("resnet18", ["layer1", "layer2"])
    kept = {key.removeprefix("extractor.") for key in backbone.state_dict()}
    expected = {
        key
        for key, value in whole.items()
        if key.split(".")[0] in {"conv1", "layer1", "layer2"} and value.ndim == 4
    }
    biases = {key.replace("weight", "bias") for key in expected}  # of the normalisations
    assert kept == expected | biases
    assert not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "layers"), [("tf_efficientnet_lite0", ["blocks.2"]), ("test_vit", ["blocks.1"])]
)
def test_training_mode_changes_nothing(name, layers):
    backbone = make(name, layers)
    images = pixels(3, 64, 64)
    before, state = backbone(images)[0], {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone.train()
    after = backbone(images)[0]
    assert torch.equal(before, after)
    assert not after.requires_grad
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize(
    ("name", "layers"),
    [("tf_efficientnet_lite0", ["blocks.4"]), ("swin_tiny_patch4_window7_224", ["layers.1"])],
)
def test_an_image_alone_gives_the_map_it_gives_in_a_batch(name, layers):
    backbone = make(name, layers)
    images = pixels(3, 64, 64)
    close(backbone(images[1:2])[0], backbone(images)[0][1:2])


def test_a_large_batch_goes_through_the_network_in_parts():
    backbone = Backbone("resnet18", ["layer1", "layer3"], "random", (32, 448))
    parts: list[int] = []
    backbone.extractor.register_forward_pre_hook(lambda _, inputs: parts.append(len(inputs[0])))
    images = pixels(60, 32, 448)
    found = backbone(images)
    assert sum(parts) == 60
    assert max(parts) * 32 * 448 <= AT_ONCE < 60 * 32 * 448
    for map_, whole in zip(found, backbone.features(images), strict=True):
        close(map_, whole)


def test_network_follows_the_image_to_another_device():
    # Rotary embeddings are made on a device that tracing would fix; "meta" stands for any other.
    backbone = make("vit_small_patch16_dinov3", ["blocks.0"]).to("meta")
    (tokens,) = backbone.extractor(torch.empty(2, 3, 64, 64, device="meta"))
    assert tokens.shape == (2, 1 + 4 + 16, 384)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 64, 64),
        torch.zeros(2, 3, 64, 96, dtype=torch.uint8),
        torch.zeros(2, 64, 64, 3, dtype=torch.uint8),
        torch.zeros(3, 64, 64, dtype=torch.uint8),
    ],
)
def test_images_of_another_kind(images):
    message = r"expected uint8 images of shape \(B, 3, 64, 64\), got \w+ of shape \("
    with pytest.raises(ValueError, match=message + ", ".join(map(str, images.shape))):
        make()(images)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["layer1", "layer3"]),
        ("test_vit", ["blocks.1"]),
    ],
)
def test_bfloat16_rounds_the_maps_and_nothing_else(name, layers):
    exact, rounded = make(name, layers), make(name, layers, bf16=True)
    images = pixels(2, 64, 64)
    # bfloat16 has 8 significant bits: each result is off by up to 2^-9, and the errors of k
    # operations in a row add up like sqrt(k). These cuts have some 40 at most.
    bound = math.sqrt(40) * 2**-9
    for a, b in zip(exact(images), rounded(images), strict=True):
        assert b.dtype == torch.float32
        assert 0 < (a - b).norm() / a.norm() < bound
    for key, value in rounded.state_dict().items():
        assert value.dtype == exact.state_dict()[key].dtype
    assert rounded.mean.dtype == rounded.std.dtype == torch.float32
