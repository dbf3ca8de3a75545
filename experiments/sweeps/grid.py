"""Grids of a sweep that are more than a product: paired values, and named sets of overrides."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from experiments.cli import quote

Jobs = list[list[str]]
"""The overrides of each job."""


def product(overrides: Sequence[Override], paired: Sequence[str]) -> Jobs:
    """Every combination of the values, but those of paired keys go together, as of `zip`.

    Of an override that is given twice the last one counts.

    Raises:
        ValueError: a key has an interval, a paired key is not given, or they have different numbers
            of values.
    """
    values = {one.key_or_group: _texts(one) for one in overrides}
    if missing := [key for key in paired if key not in values]:
        raise ValueError(f"sweep.zip names {missing[0]}, which is not given any values")
    together = {key: values.pop(key) for key in paired}
    if len(set(map(len, together.values()))) > 1:
        counts = ", ".join(f"{key} has {len(some)}" for key, some in together.items())
        raise ValueError(f"sweep.zip takes as many values of each key: {counts}")
    rows = [*zip(*together.values(), strict=True)] or [()]
    return [[*job, *row] for job in itertools.product(*values.values()) for row in rows]


def _texts(override: Override) -> list[str]:
    """An override of each of its values."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ValueError(f"{override.input_line}: an interval is for hydra/sweeper=optuna")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def of_variants(
    overrides: Sequence[Override],
    paired: Sequence[str],
    variants: dict[str, list[str]],
    parser: OverridesParser,
) -> Jobs:
    """The jobs of each variant, whose overrides take the place of those of the same key."""
    jobs: Jobs = []
    for name, given in variants.items():
        own = parser.parse_overrides(given)
        keys = {one.key_or_group for one in own}
        others = [one for one in overrides if one.key_or_group not in keys]
        label = f"table.variant={quote(name)}"
        jobs += [[*job, label] for job in product([*others, *own], paired)]
    return jobs


def read_variants(path: str) -> dict[str, list[str]]:
    """The overrides of each variant, by its name, of a YAML file.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(Path(path).expanduser()))
    except YAMLError as error:
        raise ValueError(f"sweep.variants={path} is no YAML: {error}") from error
    if not (isinstance(found, dict) and found):
        raise ValueError(f"sweep.variants={path} must map names to lists of overrides")
    for name, given in found.items():
        if not (isinstance(given, list) and all(isinstance(one, str) for one in given)):
            raise ValueError(
                f"sweep.variants={path}: {name} must be a list of overrides, such as"
                " [reduction=random, 'reduction.d=50,100']"
            )
    return {str(name): given for name, given in found.items()}
