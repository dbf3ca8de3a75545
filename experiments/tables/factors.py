"""Settings and variants by the short names that a user gives them."""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from experiments.tables.labels import short_key, value_text


def chosen_factors(settings: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The settings that `table.by` names.

    Args:
        settings: those that vary, as of `what_varies`.
        names: keys, their last parts, or groups.

    Raises:
        ValueError: a name is that of no setting that varies.
    """
    keys = {name: _named(name, settings) for name in names}
    if unknown := [name for name, found in keys.items() if not found]:
        raise ValueError(
            f"table.by names {', '.join(unknown)}, which does not vary; what does: "
            + (", ".join(map(_shown, settings)) or "nothing")
        )
    return list(dict.fromkeys(key for found in keys.values() for key in found))


def find_variant(settings: pd.DataFrame, baseline: str) -> int:
    """The number of the variant, the only one, that has the settings of `table.baseline`.

    Args:
        settings: of the variants, as text.
        baseline: such as "reduction=random" or "reduction.d=100,gaussian.eps=0.01"; keys may be
            short, and values also those of tables and the names of a group's options.

    Raises:
        ValueError: no variant has them, or several.
    """
    given = [one.partition("=") for one in re.split(r",(?=[\w.]+=)", baseline)]
    found = [
        number
        for number, row in enumerate(settings.to_dict("records"))
        if all(any(_is(k, row[k], v) for k in _named(name, settings)) for name, _, v in given)
    ]
    if len(found) == 1:
        return found[0]
    there = [
        f"{_shown(key)}={'|'.join(dict.fromkeys(value_text(key, v) for v in settings[key]))}"
        for key in map(str, settings)
    ]
    raise ValueError(
        f"table.baseline={baseline} is {f'{len(found)} rows' if found else 'no row'} of the table,"
        f" and has to be one; the settings there are: {', '.join(there)}"
    )


def _named(name: str, keys: pd.DataFrame) -> list[str]:
    """The keys that a name means: itself, or those it is short for, or those of the group."""
    every = list(map(str, keys))
    short = [key for key in every if name in (short_key(key), key.rpartition(".")[2])]
    return [name] if name in every else short or [k for k in every if k.startswith(f"{name}.")]


def _is(key: str, value: str, given: str) -> bool:
    """Whether a value is the one given: as it is, as in a table, or as an option of its group."""
    group, _, last = key.rpartition(".")
    meant = [re.sub(r",\s*", ", ", given)]
    file = files("conf").joinpath(group, f"{given}.yaml")
    if short_key(key) == group and file.is_file():
        option: Any = OmegaConf.create(file.read_text(encoding="utf-8"))
        meant.append(option.get(last))
    return value_text(key, value) in [value_text(key, one) for one in meant]


def _shown(key: object) -> str:
    return str(key).removesuffix("._target_")
