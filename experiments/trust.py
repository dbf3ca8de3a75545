"""Configurations read from a model file or a run folder, which anybody may have written.

They hold plain values and classes of a closed list. Nothing else is built from them, no
interpolation is resolved, nothing is downloaded, and no path is taken to write to.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

import datamodules
from datamodules import LabelledData
from padim import CheckpointError

DATA_MODULES: dict[str, type[LabelledData]] = {
    f"datamodules.{name}": getattr(datamodules, name)
    for name in (
        *("Avenue", "BTAD", "Demo", "Folder", "MPDD", "MVTec", "MVTecLOCO", "MVTecLayout"),
        *("STC", "UCSDPed2", "VisA"),
    )
}
"""The classes that a file's `data` may name."""

PARTS = {
    "preprocessing": "datamodules.Preprocessing",
    "preprocessing.rotation_crop": "datamodules.RandomRotationCrop",
    "loading": "datamodules.Loading",
}
"""The key of each object inside of `data`, and its class."""

DOWNLOADS = ("download", "download_url", "download_sha256")
"""Keys of `data` that say what is fetched: they are never taken from a file."""

FLAT = ("resize", "crop", "resize_mode", "roi", "resolution")
"""Keys of `data` in version 0.1.0 that are those of `data.preprocessing` now."""

UNTRUSTED = (
    *(
        "hydra.",
        "logger.",
        "callbacks.",
        "loading.cache",
        "sweep.cache",
        "sweep.variants",
        "data.loading",
    ),
    *("trainer.default_root_dir", "trainer.callbacks", "trainer.logger"),
    *(f"data.{key}" for key in DOWNLOADS),
)
"""Beginnings of the keys that a run folder's own overrides do not set again."""


HARMLESS = ("hydra.mode", *(f"hydra.sweeper.{k}" for k in ("n_trials", "batch_size", "direction")))
"""Keys of Hydra that they do."""


def trusted_data(saved: Mapping[str, Any], replaced: Collection[str] = ()) -> dict[str, Any]:
    """The `data` of a file, safe to instantiate.

    Args:
        saved: as the file has it.
        replaced: its keys, dotted, that the user has given on the command line: what the file says
            of them does not count.

    Returns:
        It without the keys that download, and without the folder of a cache.

    Raises:
        CheckpointError: a class is not on the list, or a value is more than plain.
    """
    kept = {key: value for key, value in _nested(saved).items() if key not in DOWNLOADS}
    for key, value in _leaves(kept):
        inner, _, last = key.rpartition(".")
        if any(f"{key}.".startswith(f"{other}.") for other in replaced):
            continue
        if last == "_target_":
            allowed = [PARTS[inner]] if inner in PARTS else [] if inner else [*DATA_MODULES]
            if value not in allowed:
                raise CheckpointError(
                    f"the file names {value} (data.{key}), which is no data of this project: if you"
                    f" trust it, say so with data.{key}={value}, or choose others with data=NAME"
                )
        elif last.startswith("_") or (isinstance(value, str) and "${" in value):
            raise CheckpointError(f"the file's data.{key} is no plain value: {value!r}")
    return kept


def _nested(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The same in today's form.

    Version 0.1.0 had no objects for preprocessing and loading, and used all 16 bits of 16-bit grey.
    """
    data = dict(saved)
    if isinstance(loading := data.get("loading"), Mapping):
        data["loading"] = {key: value for key, value in loading.items() if key != "cache"}
    if data.get("preprocessing"):
        data["preprocessing"] = {"bits": 16, **data["preprocessing"]}
    if "resize" not in saved:
        return data
    view = {key: data.pop(key) for key in FLAT if key in data}
    if pose := data.pop("pose", None):
        view["rotation_crop"] = {**pose, "_target_": PARTS["preprocessing.rotation_crop"]}
    sizes = {key: data.pop(key) for key in ("batch_size", "num_workers") if key in data}
    data["preprocessing"] = {"_target_": PARTS["preprocessing"], "bits": 16, **view}
    return {**data, "loading": {"_target_": PARTS["loading"], **sizes}}


def trusted_overrides(saved: Sequence[str], given: Sequence[str]) -> list[str]:
    """The overrides that a run folder keeps of its run, safe to compose with again.

    Args:
        saved: as the folder has them.
        given: those on the command line, any of which the user trusts.

    Raises:
        ValueError: an override names what is run, loaded from elsewhere or written to, and is not
            among those given.
    """
    parser = OverridesParser.create()
    for text, override in zip(saved, parser.parse_overrides(list(saved)), strict=True):
        key = override.key_or_group
        plain = "_target_" not in text and "${" not in text and not key.startswith(UNTRUSTED)
        if not (plain or text in given or key in HARMLESS):
            raise ValueError(
                f"the folder sets {text}, which can run or write something: if you trust it, give"
                " it again beside resume=FOLDER"
            )
    return list(saved)


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings and lists."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        if isinstance(value, Mapping | list | tuple):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
