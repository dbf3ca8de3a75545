"""The hardware and software of a run."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

PACKAGES = (
    *("padim-lightning", "torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics"),
    *("hydra-core", "numpy", "scipy", "pillow"),
)


def describe_machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads, GPU if the device is "cuda", and versions of torch and Python."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return {
        "cpu": found[1] if found else platform.processor() or platform.machine(),
        "cores": len(psutil.Process().cpu_affinity()) if psutil.LINUX else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def describe_environment(device: str) -> dict[str, Any]:
    """The same, the versions of the main packages, and the commit of a checkout."""
    return {
        **describe_machine(device),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # of a checkout that is not installed
        return None


@cache
def _commit() -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():  # an installation, perhaps in another project's checkout
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
