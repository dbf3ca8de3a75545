"""padim benchmark: time and memory of a fit, a score and a sweep on this machine."""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.benchmark.baseline import NOTE, compare
from experiments.benchmark.parts import PARTS, Fixture, Measurement
from experiments.environment import describe_machine
from experiments.files import write_text
from experiments.tables.text_table import TextTable

NOTES = (
    "A job is the command from its start to its end. Distances: feature maps at hand. Peaks are of"
    " the largest process. A sweep includes the start of the program."
)

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Measure, show and write; return the medians by part and name.

    Raises:
        ValueError: a key is wrong.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    machine, load = describe_machine(config.device), os.getloadavg()[0]
    measurements = list(_measure(config))
    machine["load"] = [round(load, 1), round(os.getloadavg()[0], 1)]
    channels = f"d = {config.reduction.d}" if config.reduction.get("d") else "all channels"
    where = ", ".join(f"{name} {value}" for name, value in machine.items() if value)
    title = f"{config.backbone.name}, {channels}; {where}"
    notes = [NOTES, *([NOTE] if config.baseline else [])]
    table = TextTable(title, tabulate(measurements), notes)
    table.print()
    document = {
        "machine": machine,
        "config": OmegaConf.to_container(config, resolve=True),
        "measurements": [one.json() for one in measurements],
    }
    write_text(folder / "benchmark.json", json.dumps(document, indent=2) + "\n")
    write_text(folder / "benchmark.md", table.markdown())
    log.info("Written to %s", folder)
    return {f"{one.part}/{one.name}": one.median for one in measurements if one.of == "padim"}


def _measure(config: DictConfig) -> Iterator[Measurement]:
    """Measure the parts wanted, in their order, and then beside a baseline."""
    if unknown := sorted(set(config.parts) - set(PARTS)):
        raise ValueError(f"parts has {', '.join(unknown)}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        fixture = Fixture(config, Path(folder))
        for name in config.parts:
            log.info("Measuring %s", name)
            for one in PARTS[name](fixture):
                log.info("  %s: %s %s", one.name, show(one.median), one.unit)
                yield one
        if config.baseline:
            yield from compare(fixture)


def tabulate(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """A row a quantity: median, spread and unit, of all implementations, and quotients of them."""
    rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    padim = {(one.part, one.name): one.median for one in measurements if one.of == "padim"}
    for one in measurements:
        low, high = show(min(one.values)), show(max(one.values))
        row = rows.setdefault((one.part, one.name), {})
        row |= {
            (one.of, ""): show(one.median),
            (f"{one.of}, min .. max", ""): f"{low} .. {high}" if low != high else "",
        }
        if one.of != "padim" and one.unit != "%":
            row["over padim", ""] = show(one.median / padim[one.part, one.name])
        row["unit", ""] = one.unit
    cells = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    unit = cells.pop(("unit", ""))  # type: ignore[arg-type]
    cells.insert(len(cells.columns), ("unit", ""), unit)
    return cells.rename_axis(["", "measurement"])


def show(value: float) -> str:
    """Three significant digits, and no more of a whole number than there is."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
