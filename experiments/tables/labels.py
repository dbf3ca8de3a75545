"""Short names of settings and of variants."""

from collections.abc import Sequence
from contextlib import suppress

import pandas as pd

DIGITS = 6
"""Characters of a number beyond which it is rounded, as a search draws it."""

NOTHING = ("", "None")
"""A setting that is not there, or null, as `what_varies` shows it."""


def variant_labels(settings: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """A name for each variant by some of its settings, as text."""
    rows = settings[list(keys)].to_numpy().tolist()
    names = [", ".join(map(setting_label, keys, row)) for row in rows]
    return pd.Series(names, settings.index, dtype=object)


def setting_label(key: str, value: str) -> str:
    """Such as "d 100", "no d", "resnet18" or "blocks.1+blocks.2"."""
    if value in NOTHING:
        return f"no {short_key(key)}"
    speaks = key.rpartition(".")[2] in ("_target_", "name", "kind", "layers", "variant")
    return value_text(key, value) if speaks else f"{short_key(key)} {value_text(key, value)}"


def short_key(key: str) -> str:
    """The last part of a key, or its group where that says no more."""
    group, _, last = key.rpartition(".")
    return group if last in ("_target_", "name", "kind") else last


def value_text(key: object, value: object) -> str:
    """Without the quotes and brackets of a list and without the modules of a class."""
    if value in NOTHING:
        return "none"
    if str(key).endswith("_target_"):
        return str(value).rpartition(".")[2]
    with suppress(ValueError):  # it is no number
        number = float(str(value))
        return f"{number:.4g}" if len(str(value)) > DIGITS else str(value)
    return str(value).strip("[]").replace("'", "").replace(", ", "+")
