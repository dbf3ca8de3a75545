"""The machine that a benchmark ran on."""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch


def describe_machine(device: str) -> dict[str, Any]:
    """What figures depend on: processor, cores, GPU, versions, threads."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The model of the processor, as the system names it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
