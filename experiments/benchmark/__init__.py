"""padim benchmark: what a fit, a score and a sweep take on this machine."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.benchmark import parts
from experiments.benchmark.figures import Figure, show
from experiments.benchmark.machine import describe_machine
from experiments.benchmark.peer import compare
from experiments.benchmark.subject import Subject
from experiments.benchmark.tables import alone, beside

GROUPS = ("backbone", "reduction", "gaussian", "map", "score", "threshold", "data", "trainer")
"""What a benchmark and a fit have in common."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Measure, show and write; return the medians by part and name.

    Raises:
        ValueError: a key is wrong.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    machine = describe_machine(config.device)
    before = os.getloadavg()[0]
    figures = list(_measure(config))
    comparisons = list(compare(config)) if config.peer else []
    machine["load"] = [round(load, 1) for load in (before, os.getloadavg()[0])]
    tables = [alone(figures, config, machine)] if figures else []
    tables += [beside(comparisons, config, machine)] if comparisons else []
    for table in tables:
        table.print()
    document = {
        "machine": machine,
        "config": OmegaConf.to_container(config, resolve=True),
        "figures": [figure.json() for figure in figures],
        "peer": [comparison.json() for comparison in comparisons],
    }
    (folder / "benchmark.json").write_text(json.dumps(document, indent=2) + "\n")
    text = "\n".join(table.markdown() for table in tables)
    (folder / "benchmark.md").write_text(text, encoding="utf-8")
    log.info("Written to %s", folder)
    return {f"{figure.part}/{figure.name}": figure.median for figure in figures}


def _measure(config: DictConfig) -> Iterator[Figure]:
    """The figures of the parts wanted, in their order."""
    measures: dict[str, Callable[[Subject], Iterator[Figure]]] = {
        "fit": parts.measure_fit,
        "score": parts.measure_score,
        "memory": parts.measure_memory,
        "sweep": partial(parts.measure_sweep, overrides=_overrides(config)),
        "metrics": parts.measure_metrics,
    }
    if unknown := sorted(set(config.parts) - set(measures)):
        raise ValueError(f"parts has {', '.join(unknown)}; there are {', '.join(measures)}")
    if config.parts:
        subject = Subject(config)
        for name in config.parts:
            log.info("Measuring %s", name)
            for figure in measures[name](subject):
                log.info("  %s: %s %s", figure.name, show(figure.median), figure.unit)
                yield figure


def _overrides(config: DictConfig) -> list[str]:
    """The arguments that make `padim fit` fit the model of this benchmark to its data."""
    hydra = HydraConfig.get()
    choices = [f"{group}={hydra.runtime.choices[group]}" for group in GROUPS]
    given = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    inside = tuple(f"{group}." for group in GROUPS)
    keys = [str(one.input_line) for one in given if one.key_or_group.startswith(inside)]
    same = [f"seed={config.seed}", f"threads={config.threads or 'null'}"]
    return [*choices, *keys, *same, f"trainer.accelerator={config.device}"]
