"""A stopped run or sweep goes on: its overrides are read back from its folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

KEY = "resume"


def resumed(overrides: Sequence[str]) -> list[str]:
    """The overrides of the run or sweep that `resume=FOLDER` names; as they are without it.

    Those beside it take the place of a sweep's, whose grid may so grow. Of a run all is to be as it
    was: it exits with a message then, and where the folder is that of neither.
    """
    given = [override for override in overrides if override.startswith(f"{KEY}=")]
    if not given or given[-1].partition("=")[2] in ("", "null"):
        return list(overrides)
    folder = Path(given[-1].partition("=")[2].strip("'\""))
    others = [o for o in overrides if o not in given and o not in ("-m", "--multirun")]
    if any(o.startswith("hydra.run.dir=") for o in others):  # in a process that the run started
        return list(overrides)
    sweep, run = folder / "multirun.yaml", folder / ".hydra" / "hydra.yaml"
    if not (sweep.is_file() or run.is_file()):
        sys.exit(
            f"Error: {folder.absolute()} is no folder of a run or a sweep: it has neither"
            f" {run.relative_to(folder)} nor {sweep.name}"
        )
    before = OmegaConf.load(sweep if sweep.is_file() else run).hydra.overrides
    place = "hydra.sweep.dir" if sweep.is_file() else "hydra.run.dir"
    kept = [
        override
        for override in [*before.hydra, *before.task]
        if not override.startswith((f"{place}=", f"{KEY}="))
    ]
    new = [override for override in others if override not in kept]
    if sweep.is_file():
        keys = {_key(override) for override in new}
        kept = [override for override in kept if _key(override) not in keys]
    elif new:
        sys.exit(f"Error: {KEY} takes all settings from {folder}; leave out {' '.join(new)}")
    from experiments.trust import trusted_overrides  # imports torch: `--help` need not wait

    try:
        kept = trusted_overrides(kept, others)
    except ValueError as error:
        sys.exit(f"Error: {folder}: {error}")
    quoted = str(folder.absolute()).replace("'", r"\'")
    return [*kept, *new, f"{place}='{quoted}'", f"{KEY}='{quoted}'"]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
