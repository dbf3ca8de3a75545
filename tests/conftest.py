import os
import signal
import sys
from pathlib import Path

import pytest
from absl import logging as absl_logging

# No test may wait for a hub that is out of reach, nor leave a run on a tracker.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
# On a GPU a score depends on its batch in the fourth digit, as TF32 convolutions do.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which would share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# TensorBoard brings this log handler. Hydra's set-up of logging closes all handlers,
# and this one its stream, unless it is standard error as it is just then: in a test that captures
# output for itself, the file in which pytest captures that of all would be closed.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__

# A shell has what it starts in the background ignore Ctrl-C, and so would the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def mvtec_256() -> Path:
    """MVTec AD categories at 256 pixels; not part of the project (CC BY-NC-SA 4.0)."""
    root = SHARED_DATA / "mvtec_256"
    if not root.is_dir():
        pytest.skip(f"needs real MVTec AD images at {root}")
    return root
