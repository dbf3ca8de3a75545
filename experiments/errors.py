"""Exceptions that are the user's to mend, and the line that explains them."""

import re
import shlex
import sys
from collections.abc import Iterable
from difflib import get_close_matches

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from datamodules import DataError
from padim import CheckpointError, DeploymentError, WeightsError
from padim.distributed import several

MENDABLE = (
    *(DataError, CheckpointError, DeploymentError, WeightsError, ValueError, OSError),
    MisconfigurationException,
)

LOST = re.compile(r"gloo|nccl|connection closed by peer", re.IGNORECASE)
"""What torch.distributed says where another process is gone."""


def explain(error: BaseException, command: str) -> str | None:
    """One message for a mistake in input or configuration; None for what may be a bug."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        cause = error.__cause__
        text = explain(cause, command) or str(cause)
        _, found, place = str(error).rpartition("full_key: ")
        return f"{text} (in the configuration: {place.strip()})" if found else text
    if isinstance(error, OverrideParseException) and "=" in error.override:
        return _unquoted(*error.override.split("=", 1))
    if isinstance(error, HydraException):
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        text = " ".join(str(error).partition("\nConfig search path")[0].split())
        return _unknown_key(unknown[1], command) if unknown else text
    if isinstance(error, OmegaConfBaseException):
        return str(error).splitlines()[0]
    if isinstance(error, RuntimeError) and several() and LOST.search(str(error)):
        return "another process of this run failed"  # which says why
    if str(error).startswith("Config group override must be a string"):
        return _value_for_group(command) or str(error)
    return str(error) if isinstance(error, MENDABLE) else None


def _unquoted(key: str, value: str) -> str:
    """Of an override whose value has characters that Hydra's grammar takes for its own."""
    is_list = value.startswith("[") and value.endswith("]")
    parts = ",".join(f'"{part.strip()}"' for part in value[1:-1].split(","))
    quoted = shlex.quote(f"{key}=[{parts}]" if is_list else f'{key}="{value}"')
    return f"{key}={value} cannot be read: quote the value, {quoted}"


def _unknown_key(key: str, command: str) -> str:
    with initialize_config_module("conf", version_base="1.3"):
        keys = list(_keys(compose(command)))
    if key in keys:  # of the default choice of its group
        group, _, rest = key.partition(".")
        return f"{group} as chosen has no key {rest!r}: leave {key} out, or choose another {group}"
    # Compared whole, and by the last part alone: reduction.dd and d both mean reduction.d.
    by_end = [k for k in keys if k.rpartition(".")[2] == key.rpartition(".")[2]]
    near = by_end or get_close_matches(key, keys, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ";"
    return f"padim {command} has no key {key!r}{hint} `padim {command} --help` lists them"


def _value_for_group(command: str) -> str | None:
    """Of an override such as threshold=450 or data=null, for which Hydra names no key."""
    given = [one for one in sys.argv[1:] if "=" in one and not one.startswith("-")]
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(command, return_hydra_config=True)
    for override in OverridesParser.create().parse_overrides(given):
        key, value = override.key_or_group, override.value()
        group = key in config.hydra.runtime.choices or isinstance(config.get(key), DictConfig)
        if not (group and isinstance(value, int | float | None)):
            continue
        hint = f"`padim {command} --help` lists its options"
        if value is None:
            return f"{key}=null: {key} is chosen by name; {hint}"
        inner = "false_alarm_rate" if 0 < value < 1 else "score"
        if key == "threshold" and inner in config[key]:
            hint = f"did you mean {key}.{inner}={value}?"
        return f"{key}={value}: {key} is a group of keys; {hint}"
    return None


def _keys(config: DictConfig, prefix: str = "") -> Iterable[str]:
    for name in map(str, config):
        yield prefix + name
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _keys(node, f"{prefix}{name}.")
