"""What tests of the command line share."""

import csv
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra.experimental.callback import Callback

from experiments.cli import main

SMALL = [
    "trainer=cpu",
    "backbone.name=test_resnet",
    "backbone.layers=[1,2,3]",
    "backbone.weights=random",
    "reduction.d=20",
    "data.category=widget",
    "preprocessing.resize=64",
    "preprocessing.crop=null",
    "loading.num_workers=0",
]
"""Overrides that make a run small; they name the category of `mvtec_tree`."""

TINY = [*(o for o in SMALL if "reduction" not in o and "layers" not in o), "pictures=0"]
"""The same for sweeps, which choose channels and layers."""


def failure(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """What a command prints that ends with an error, and never a traceback."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code not in (0, None)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    return printed.err + printed.out + str(stop.value.code)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a .csv file."""
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Returned(Callback):
    """Of Hydra: keeps what jobs return."""

    values: ClassVar[list[Any]] = []

    def on_job_end(self, config: Any, job_return: Any, **_: Any) -> None:
        self.values.append(job_return.return_value)


def metrics(folder: Path) -> dict[str, float]:
    """Of a run, all but what depends on the clock."""
    found = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.endswith("_s")}
