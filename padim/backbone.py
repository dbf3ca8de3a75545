"""The frozen network that turns images into feature maps."""

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, fx, nn

from padim.cut import cut, fold_batch_norms
from padim.precision import autocast
from padim.weights import (
    check_finite,
    create_network,
    load_weights,
    read_weights,
    reason,
    timm_name,
)

AT_ONCE = 8 * 224**2
"""Pixels that a CPU has in the network at a time: more are no faster, and take more memory."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """A feature map: the module's name, its number of channels and its grid (height, width)."""

    name: str
    channels: int
    grid: tuple[int, int]


class Backbone(nn.Module):
    """Any timm model, frozen, in eval mode, cut behind the last layer used.

    Images come as uint8 RGB; they are converted and normalised here, on the device, with the mean
    and std that timm declares for the weights. Maps of transformers, tokens or channels-last, are
    returned as (B, channels, height, width) like all others.

    Args:
        name: timm model name, with its tag where it matters ("resnet18.tv_in1k"), or a timm model,
            which is copied, with the weights it has. A checkpoint is read back into timm's model of
            that name.
        layers: the maps to return: module names as timm names them ("layer1", "blocks.4", or any
            other module, "blocks.1.3"), or indices into timm's list of feature maps.
        weights: "hub" (timm's tag), "package" (an installed package of weights), the path of a
            .pth or .safetensors file, or "random" for a test run. None leaves them as initialised,
            for a state dict that follows. Of a model that is given, "given".
        image_size: (height, width) of the images in pixels.
        bf16: run the network under bfloat16 autocast; maps are float32 all the same.
        patch_pooling: odd; the maps of the finest grid are averaged over as many positions square.
            On coarser ones that blurs what is to be localised. 1 for none, as in the paper.

    Attributes:
        layers: name, channels and grid of each map, in the order asked for.

    Raises:
        ValueError: unknown model or layer, the right names are listed; or a bad `patch_pooling`.
        WeightsError: the weights cannot be had, do not fit, or hold NaN.
    """

    mean: Tensor
    std: Tensor
    _outputs: Sequence[int]

    def __init__(
        self,
        name: str | nn.Module = "tf_efficientnet_lite0",
        layers: Sequence[str | int] = ("blocks.1", "blocks.2", "blocks.4"),
        weights: str | None = "package",
        image_size: tuple[int, int] = (224, 224),
        bf16: bool = False,
        patch_pooling: int = 1,
    ) -> None:
        super().__init__()
        if patch_pooling < 1 or patch_pooling % 2 == 0:
            raise ValueError(f"backbone.patch_pooling must be 1, 3, 5, ..., got {patch_pooling}")
        if isinstance(name, nn.Module):
            network, weights = copy.deepcopy(name), "given"
            name = timm_name(network)
        else:
            network = create_network(name, weights == "hub", _pair(image_size))
        self.name = name
        self.weights = weights
        self.image_size = _pair(image_size)
        self.bf16 = bf16
        self.patch_pooling = patch_pooling

        network.eval().to(memory_format=torch.channels_last)
        _check_patches(network, name, self.image_size)
        names = _layer_names(network, name, layers)
        entries = list(network.state_dict())
        self.extractor = cut(network, name, names)
        origin = f"backbone.weights={weights} for {name}"
        if weights == "random":
            log.warning("%s has random weights: good for a test run, not for a result", name)
        elif weights not in ("hub", "given", None):
            source = read_weights(name, str(weights), entries)
            load_weights(self.extractor, source, entries, origin)
        check_finite(self.extractor, origin)
        self.extractor = fold_batch_norms(self.extractor)

        self._token_grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
        self._prefix_tokens = getattr(network, "num_prefix_tokens", 1)
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        declared: Any = network.pretrained_cfg
        for key in ("mean", "std"):
            value = torch.tensor(declared[key]).view(1, 3, 1, 1) * 255
            self.register_buffer(key, value, persistent=False)
        self.requires_grad_(False)
        self.layers = tuple(
            Layer(n, m.shape[1], (m.shape[2], m.shape[3]))
            for n, m in zip(names, self._trace_shapes(names), strict=True)
        )
        self._outputs = range(len(self.layers))
        self.train()  # as any new module; the extractor itself always runs in eval mode

    def narrowed(self, layers: Sequence[str]) -> "Backbone":
        """The same network, shared, with some of its layers.

        Raises:
            ValueError: a layer is not among those of this backbone.
        """
        names = [layer.name for layer in self.layers]
        wanted = [str(layer) for layer in layers]
        if not wanted or not set(wanted) <= set(names):
            raise ValueError(f"layers {wanted} are not all among {names}")
        part = copy.copy(self)
        part.layers = tuple(self.layers[names.index(name)] for name in wanted)
        part._outputs = [self._outputs[names.index(name)] for name in wanted]
        return part

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain values."""
        return {
            "name": self.name,
            "layers": [layer.name for layer in self.layers],
            "weights": self.weights,
            "image_size": list(self.image_size),
            "bf16": self.bf16,
            "patch_pooling": self.patch_pooling,
        }

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) uint8 RGB to one float32 (B, channels, height, width) map a layer."""
        expected = (3, *self.image_size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"expected uint8 images of shape (B, {', '.join(map(str, expected))}), got"
                f" {str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
            )
        if images.device.type != "cpu":
            return self.features(images)
        parts = images.chunk(math.ceil(images[:, 0].numel() / AT_ONCE) or 1)
        return [torch.cat(maps) for maps in zip(*map(self.features, parts), strict=True)]

    @torch.no_grad()
    def features(self, pixels: Tensor) -> list[Tensor]:
        """As `forward`, of values from 0 to 255 of any type."""
        if self.extractor.training:
            # Set here and not once and for all: a trainer that finds modules in eval mode warns.
            self.extractor.eval()
        x = pixels.to(memory_format=torch.channels_last, dtype=torch.float32)
        x = (x - self.mean) / self.std
        with autocast(pixels.device.type, self.bf16):
            outputs = self.extractor(x)
        return [
            self._pool(self._to_map(outputs[i].float(), layer.name), layer)
            for i, layer in zip(self._outputs, self.layers, strict=True)
        ]

    def _pool(self, features: Tensor, layer: Layer) -> Tensor:
        """Average a map of the finest grid over each position's neighbourhood."""
        if self.patch_pooling == 1 or layer.grid != max(layer.grid for layer in self.layers):
            return features
        size = self.patch_pooling
        return F.avg_pool2d(features, size, 1, size // 2, count_include_pad=False)

    def _to_map(self, output: Any, layer: str) -> Tensor:
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        if len(shape) == 3 and self._token_grid:
            h, w = self._token_grid
            prefix = shape[1] - h * w  # class and register tokens come first
            if prefix in (0, self._prefix_tokens):
                features: Tensor = output[:, prefix:].mT.unflatten(2, (h, w))
                return features
        elif len(shape) == 4:
            features = output.permute(0, 3, 1, 2) if self._is_channels_last(shape) else output
            return features
        given = f"a tensor of shape {shape}" if shape else f"a {type(output).__name__}"
        raise ValueError(
            f"layer {layer} of {self.name} gives {given}, which is no map over the image:"
            " choose another of backbone.layers"
        )

    def _is_channels_last(self, shape: tuple[int, ...]) -> bool:
        """Whether (a, b, c) is (height, width, channels): which reading has the image's aspect."""
        height, width = self.image_size
        _, a, b, c = shape
        first, last = (abs(math.log(height * y / (width * x))) for x, y in ((b, c), (a, b)))
        return self._channels_last if first == last else last < first

    def _trace_shapes(self, names: Sequence[str]) -> list[Tensor]:
        """The maps of one image on the meta device: shapes without arithmetic."""
        extractor = copy.deepcopy(self.extractor).to("meta")
        image = torch.empty(1, 3, *self.image_size, device="meta")
        try:
            outputs = fx.Interpreter(extractor).run(image)
        except Exception as error:  # whatever the model's own code raises
            height, width = self.image_size
            raise ValueError(
                f"{self.name} does not run on images of {height}x{width} pixels ({reason(error)}):"
                " choose another image size or backbone"
            ) from error
        return [self._to_map(output, n) for n, output in zip(names, outputs, strict=True)]


def _pair(size: Sequence[int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def _check_patches(network: nn.Module, name: str, image_size: tuple[int, int]) -> None:
    """Refuse a size whose right and lower edge the network would silently leave out."""
    patches = getattr(network, "patch_embed", None)
    if not isinstance(patches, PatchEmbed) or getattr(patches, "dynamic_img_pad", False):
        return
    sizes = list(zip(image_size, patches.patch_size, strict=True))
    if any(size % patch for size, patch in sizes):
        near = "x".join(str(max(1, round(size / patch)) * patch) for size, patch in sizes)
        raise ValueError(
            f"images of {image_size[0]}x{image_size[1]} pixels do not divide into the"
            f" {sizes[0][1]}x{sizes[1][1]} patches of {name}: use {near}"
        )


def _layer_names(network: nn.Module, name: str, layers: Sequence[str | int]) -> list[str]:
    info: Any = getattr(network, "feature_info", ())
    declared = [i["module"] for i in info]
    modules = dict(network.named_modules())
    names = []
    for layer in layers:
        if isinstance(layer, int) and -len(declared) <= layer < len(declared):
            layer = declared[layer]
        if layer not in modules or layer == "":
            maps = ", ".join(
                f"{i['module']} ({i['num_chs']} channels, stride {i['reduction']})" for i in info
            )
            near = get_close_matches(str(layer), modules, n=3)
            hint = f"; near in name: {', '.join(near)}" if near else ""
            raise ValueError(
                f"{name} has no layer {layer!r}. Its feature maps, by index from 0: {maps}."
                f" Any other module can be named too{hint}"
            )
        names.append(str(layer))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"backbone.layers must name at least one layer, each once; got {names}")
    return names
