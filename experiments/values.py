"""The types and ranges of configured values, which Hydra takes as they come."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Kind:
    """The kind of a value.

    Args:
        words: it in words, with an example.
        read: the value meant by one that is configured; None for none.
        null: whether null is one as well.
    """

    words: str
    read: Callable[[Any], Any]
    null: bool = False

    @property
    def or_null(self) -> "Kind":
        """The same, or null."""
        return replace(self, words=f"{self.words}, or null", null=True)


def _number(words: str, inside: Callable[[float], bool], of: Any = int | float) -> Kind:
    def read(value: Any) -> Any:
        plain = isinstance(value, of) and not isinstance(value, bool) and math.isfinite(value)
        return value if plain and inside(value) else None

    return Kind(words, read)


def _whole(least: int, example: int) -> Kind:
    words = f"a whole number of at least {least}, such as {example}"
    return _number(words, lambda value: value >= least, int)


def _text(value: Any) -> str | None:
    """Text; Hydra reads the name of a folder such as 2026 as a number."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _paths(value: Any) -> list[str] | None:
    """One or several, as a list."""
    found = [_text(path) for path in (value if isinstance(value, ListConfig) else [value])]
    return None if None in found else found  # type: ignore[return-value]


FLAG = Kind("true or false", lambda value: BOOLEANS.get(str(value).lower()))
TEXT = Kind("text", _text)
PATHS = Kind("a path or a list of paths", _paths)
LAYERS = Kind(
    "a list of names or numbers, such as [blocks.1,blocks.2]",
    lambda value: value if isinstance(value, ListConfig) and len(value) else None,
)
CATEGORY = Kind(
    "a name or a list of names, such as bottle",
    lambda value: LAYERS.read(value) if isinstance(value, ListConfig) else _text(value),
)
ABOVE_0 = _number("a number above 0, such as 0.01", lambda value: value > 0)
SHARE = _number("a number within 0 and 1, such as 0.01", lambda value: 0 < value < 1)
SHRINKAGE = Kind(
    "auto or a number from 0 to 1, such as 0.1",
    lambda value: value if value == "auto" else _number("", lambda v: 0 <= v <= 1).read(value),
)

SPREAD = Kind("sem or sd", lambda value: value if value in ("sem", "sd") else None)
PLOTS = ("png", "pdf", "svg")

SCHEMA: dict[str, Kind] = {
    **dict.fromkeys(("strict", "fail_on_anomaly", "fail_on_drift", "watch", "raw"), FLAG),
    **dict.fromkeys(("half", "test_set", "select"), FLAG),
    **dict.fromkeys(("overwrite", "allow_overlap", "pages", "pictures_by_level"), FLAG),
    **dict.fromkeys(("backbone.bf16", "reduction.clip", "data.download"), FLAG),
    **dict.fromkeys(("save_model", "metrics.binned"), FLAG.or_null),
    **dict.fromkeys(("pictures", "callbacks.recorder.pictures"), _whole(0, 16).or_null),
    "objective": Kind(
        "a metric or a list of metrics, such as image/auroc",
        lambda value: value if isinstance(value, str | ListConfig) and len(value) else None,
    ).or_null,
    "seed": _whole(0, 1),
    "threads": _whole(1, 4).or_null,
    **dict.fromkeys(("checkpoints", "paths"), PATHS),
    **dict.fromkeys(("images", "abnormal"), PATHS.or_null),
    "checkpoint": TEXT,
    **dict.fromkeys(
        ("out", "title", "loading.cache", "sweep.cache", "sweep.variants"), TEXT.or_null
    ),
    "preprocessing.ignore": TEXT.or_null,
    "interval": ABOVE_0,
    **dict.fromkeys(("stride", "data.train_stride", "data.test_stride"), _whole(1, 5)),
    **dict.fromkeys(
        ("checkpoint_every_n_images", "callbacks.resume_state.every_n_images"),
        _whole(1, 5000).or_null,
    ),
    "sweep.memory_limit": _number("a share up to 1, such as 0.6", lambda value: 0 < value <= 1),
    "repeats": _whole(1, 5),
    "details": _whole(0, 16),
    "backbone.name": TEXT,
    "backbone.layers": LAYERS,
    "backbone.patch_pooling": _whole(1, 3),
    "reduction.d": _whole(1, 100),
    "reduction.seed": _whole(0, 1),
    "gaussian.eps": ABOVE_0,
    "gaussian.shrinkage": SHRINKAGE,
    "gaussian.neighbours": _whole(0, 1),
    "map.sigma": _number("a number of at least 0, such as 4", lambda value: value >= 0).or_null,
    "score.top": _number("a share up to 1, such as 0.005", lambda value: 0 < value <= 1),
    "threshold.images": _whole(2, 256),
    **dict.fromkeys(("threshold.false_alarm_rate", "metrics.false_alarm_rate"), SHARE.or_null),
    "metrics.bootstrap": _whole(100, 1000).or_null,
    "drift": SHARE.or_null,
    "threshold.score": _number("a number, such as 450", lambda value: True).or_null,
    "loading.batch_size": _whole(1, 32),
    "loading.num_workers": _whole(0, 4).or_null,
    "preprocessing.rotation_crop.seed": _whole(0, 1),
    **dict.fromkeys(("data.root", "stc.root"), TEXT),
    "tables": Kind(
        "a list of tables, such as [table1,table3_r18]",
        lambda value: value if isinstance(value, ListConfig) and len(value) else None,
    ),
    "data.category": CATEGORY.or_null,
    "data.name": TEXT.or_null,
    "data.train_frames": _whole(1, 5000).or_null,
    "data.held_out": _number("a share below 1, such as 0.2", lambda v: 0 <= v < 1).or_null,
    **dict.fromkeys(("data.split_seed", "data.shot_seed"), _whole(0, 1)),
    "data.shots": Kind(
        "all or a whole number of at least 1, such as 8",
        lambda value: value if value == "all" else _whole(1, 8).read(value),
    ),
    "table.metrics": Kind(
        "a list of metrics, such as [image/auroc,pixel/pro]",
        lambda value: value if isinstance(value, ListConfig) else None,
    ),
    "sweep.zip": Kind(
        "a list of keys, such as [reduction.d,backbone.layers]",
        lambda value: value if isinstance(value, ListConfig) else None,
    ).or_null,
    "table.by": Kind(
        "a list of settings, such as [reduction,gaussian.shrinkage]",
        lambda value: value if isinstance(value, ListConfig) else None,
    ).or_null,
    "table.baseline": TEXT.or_null,
    "table.spread": SPREAD,
    "table.pictures": Kind(
        "a list of png, pdf and svg",
        lambda value: (
            value if isinstance(value, ListConfig) and all(one in PLOTS for one in value) else None
        ),
    ),
    "table.reference": Kind(
        "figures by variant, such as {R18: {mean: [97.1]}}",
        lambda value: value if isinstance(value, DictConfig) else None,
    ),
}
"""Of the keys of all commands; what can be checked by the object of a group alone is its own."""

OF_COMMANDS: dict[str, dict[str, Kind]] = {
    "predict": {"pictures": FLAG, "images": PATHS},
    "report": {"table.spread": SPREAD.or_null},
}
"""Of a command's keys that mean something else in others."""


def check(config: DictConfig, command: str) -> None:
    """Check the values of a command's configuration, and put `yes` and the like as they are meant.

    Raises:
        ValueError: a value is not of its kind.
    """
    for key, kind in (SCHEMA | OF_COMMANDS.get(command, {})).items():
        group = key.rpartition(".")[0]
        if group and isinstance(OmegaConf.select(config, group), str | int | float):
            raise ValueError(f"{group} has keys of its own: give {key}=... instead of {group}=...")
        if (value := OmegaConf.select(config, key, default=kind)) is kind:
            continue  # no key of this command
        meant = kind.read(value)
        if meant is None and not (kind.null and value is None):
            raise ValueError(f"{key} must be {kind.words}, got {value!r}")
        if meant is not value:
            OmegaConf.update(config, key, meant)
