"""A stopped sweep goes on: its overrides are read back from its folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

KEY = "sweep.resume"


def resumed(overrides: Sequence[str]) -> list[str]:
    """The overrides of the sweep that `sweep.resume=FOLDER` names; as they are without it.

    Exits with a message where the folder is not one of a sweep, or where there are overrides
    beside it: the jobs are to be those of the sweep.
    """
    given = [override for override in overrides if override.startswith(f"{KEY}=")]
    if not given or given[-1].partition("=")[2] in ("", "null"):
        return list(overrides)
    folder = Path(given[-1].partition("=")[2].strip("'\""))
    others = [o for o in overrides if o not in given and o not in ("-m", "--multirun")]
    if others:
        sys.exit(f"Error: {KEY} takes all settings from {folder}; leave out {' '.join(others)}")
    path = folder / "multirun.yaml"
    if not path.is_file():
        sys.exit(f"Error: {folder.absolute()} is no folder of a sweep: it has no {path.name}")
    before = OmegaConf.load(path).hydra.overrides
    kept = [o for o in [*before.hydra, *before.task] if not o.startswith(("hydra.sweep.dir=", KEY))]
    quoted = str(folder.absolute()).replace("'", r"\'")
    return [*kept, f"hydra.sweep.dir='{quoted}'", f"{KEY}='{quoted}'"]
