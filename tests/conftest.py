import os
from pathlib import Path

import pytest

# No test may wait for a hub that is out of reach, nor leave a run on a tracker.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, which would share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def mvtec_256() -> Path:
    """MVTec AD categories at 256 pixels; not part of the project (CC BY-NC-SA 4.0)."""
    root = SHARED_DATA / "mvtec_256"
    if not root.is_dir():
        pytest.skip(f"needs real MVTec AD images at {root}")
    return root
