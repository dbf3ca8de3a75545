"""What is measured: the values of a figure over several repeats, and how they are shown."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from experiments.benchmark.drivers.usage import cpu_seconds


@dataclass(frozen=True)
class Figure:
    """The values of one figure.

    Args:
        part: the part of the benchmark it belongs to, "fit", "score", ...
        name: what is measured.
        unit: of the values.
        values: one a repeat, in the order measured.
    """

    part: str
    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        """What stands for all values."""
        return statistics.median(self.values)

    @property
    def spread(self) -> str:
        """The least and the largest value, as text; nothing where they are shown alike."""
        low, high = show(min(self.values)), show(max(self.values))
        return f"{low} .. {high}" if low != high else ""

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "part": self.part,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
        }


class Times(NamedTuple):
    """Seconds of each repeat: on the clock, and of all processors by this process and its own."""

    wall: list[float]
    cpu: list[float]


def in_turn(
    tasks: Mapping[str, Callable[[], object]],
    repeats: int,
    device: torch.device | None = None,
    warm_up: bool = True,
) -> dict[str, Times]:
    """Run tasks by turns, so that whatever else the machine does falls on all of them alike.

    Args:
        tasks: by name.
        repeats: rounds that are counted.
        device: waited for on both sides of a task; None for the CPU.
        warm_up: run a round before that is not counted.
    """
    times = {name: Times([], []) for name in tasks}
    for i in range(-warm_up, repeats):
        for name, task in tasks.items():
            _wait(device)
            wall, cpu = time.perf_counter(), cpu_seconds()
            task()
            _wait(device)
            if i >= 0:
                times[name].wall.append(time.perf_counter() - wall)
                times[name].cpu.append(cpu_seconds() - cpu)
    return times


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Quotients of what was measured in the same round."""
    return [value / other for value, other in zip(values, others, strict=True)]


def show(value: float) -> str:
    """Three significant digits, and no more of a whole number than there is."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _wait(device: torch.device | None) -> None:
    if device and device.type == "cuda":
        torch.cuda.synchronize(device)
