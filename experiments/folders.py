"""The folder of a run: nobody else's, unless the user says so."""

import sys
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from experiments.values import FLAG

FINISHED = ("metrics.json", "model.ckpt", "predictions.json", "benchmark.json", "sweep.csv")
"""Any of these is the outcome of a run or a sweep."""

WRITTEN = (
    *("metrics.json", "predictions.*", "defects.csv", "curves.csv", "table.*", "shrinkage.*"),
    *("scores.csv", "regions.csv", "skipped.csv", "sweep.csv", "results.csv", "multirun.yaml"),
    *("drift.*", "environment.json"),
    *("pictures/*.png", "pictures/*.pdf", "pictures/*.svg", "gallery/*"),
    *("courses/*.png", "videos/*.mp4", "maps/*.npy"),
)
"""What runs write; a model is removed by a fit alone."""


class OwnFolder(Callback):
    """Gives each run, or sweep, a folder of its own before anything is written."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Choose `hydra.run.dir`."""
        _settle(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose `hydra.sweep.dir`, for all jobs alike."""
        _settle(config, "sweep")
        with flag_override(config, ["readonly", "struct"], False):  # jobs are composed anew by it
            quoted = config.hydra.sweep.dir.replace("'", r"\'")
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


def _settle(config: DictConfig, mode: str) -> None:
    try:
        _choose(config, mode)
    except OSError as error:
        sys.exit(f"Error: {error}")  # Hydra makes a warning of what callbacks raise


def _choose(config: DictConfig, mode: str) -> None:
    place = config.hydra[mode]
    folder = Path(place.dir)
    named: Any = OmegaConf.to_container(place, resolve=False)
    if "${now:" in named["dir"]:
        with flag_override(config, "readonly", False):
            place.dir = str(own_folder(folder))
        return
    found = [name for name in FINISHED if (folder / name).exists()]
    if not found or config.get("resume"):
        return
    if not FLAG.read(config.overwrite):
        raise FileExistsError(
            f"hydra.{mode}.dir={folder} holds a run already ({found[0]}): choose another folder, or"
            " overwrite=true"
        )
    if mode == "sweep":  # whose jobs may be more than there are now
        clear(folder)


def own_folder(folder: Path | None = None) -> Path:
    """Make a folder that was not there: this one, or the same with _2, _3, ...

    By default it is one in runs/ with the date and time as its name.
    """
    folder = folder or Path(f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free, numbers = folder, count(2)
    while True:
        try:
            free.mkdir()
            return free
        except FileExistsError:
            free = folder.with_name(f"{folder.name}_{next(numbers)}")


def clear(folder: Path) -> None:
    """Remove what a run in the folder has written, and its jobs and categories in theirs."""
    of_sweep = (folder / "multirun.yaml").exists()
    for child in folder.iterdir():
        if (child / "config.yaml").exists() and (of_sweep or not (child / ".hydra").exists()):
            clear(child)
    for pattern in WRITTEN:
        for file in folder.glob(pattern):
            file.unlink()
