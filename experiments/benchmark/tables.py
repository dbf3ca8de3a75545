"""The tables of a benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from experiments.benchmark.figures import Figure, show
from experiments.benchmark.peer import NOTES, Comparison
from experiments.tables.text_table import TextTable


def alone(figures: Sequence[Figure], config: DictConfig, machine: Mapping[str, Any]) -> TextTable:
    """A row a figure: its median, its spread, its unit."""
    index = pd.MultiIndex.from_tuples([(f.part, f.name) for f in figures], names=["", "figure"])
    cells = {
        ("median", ""): [show(figure.median) for figure in figures],
        ("min .. max", ""): [figure.spread for figure in figures],
        ("unit", ""): [figure.unit for figure in figures],
    }
    notes = [
        "A fit here makes no threshold; what that takes is told apart. Distances are those of"
        " feature maps at hand.",
        "Peaks are of the process, its decoding workers apart. The sweep is"
        f" {' '.join(config.grid)}, start of the program included.",
    ]
    title = f"{_model(config)}; {_machine(machine)}"
    return TextTable(title, pd.DataFrame(cells, index=index), notes)


def beside(
    comparisons: Sequence[Comparison], config: DictConfig, machine: Mapping[str, Any]
) -> TextTable:
    """A row a figure: this project's, the peer's, and their quotient."""
    index = pd.MultiIndex.from_tuples([(c.images, c.name) for c in comparisons])
    index.names = ["images", "figure"]
    cells = {
        ("padim", ""): [show(c.ours.median) for c in comparisons],
        ("min .. max", "padim, min .. max"): [c.ours.spread for c in comparisons],
        (config.peer, ""): [show(c.theirs.median) for c in comparisons],
        ("min .. max ", f"{config.peer}, min .. max"): [c.theirs.spread for c in comparisons],
        ("unit", ""): [c.ours.unit for c in comparisons],
        ("quotient", ""): [show(c.quotient) if c.quotient else "" for c in comparisons],
    }
    versions = f"{config.peer} {comparisons[0].version}"
    title = f"Beside {versions}: {_model(config)}; {_machine(machine)}"
    return TextTable(title, pd.DataFrame(cells, index=index), NOTES)


def _model(config: DictConfig) -> str:
    channels = config.reduction.get("d")
    return f"{config.backbone.name}, {f'd = {channels}' if channels else 'all channels'}"


def _machine(machine: Mapping[str, Any]) -> str:
    where = [machine["cpu"], f"{machine['cores']} cores", f"{machine['threads']} threads"]
    where += [machine["gpu"]] if machine["gpu"] else []
    before, after = machine["load"]
    return ", ".join([*where, f"torch {machine['torch']}", f"load {before} before, {after} after"])
