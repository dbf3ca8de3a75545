"""Every command ends soon after its error or a signal, also with decoding workers."""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from commands import Commands
from experiments.cli import main
from runs import SMALL
from trees import mvtec_tree

LIMIT = 60
"""Seconds; a command that hangs would wait for ever, and this machine may be busy."""

WORKERS = "loading.num_workers=2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mvtec_tree(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, argv = tmp_path_factory.mktemp("fitted"), sys.argv
    mvtec_tree(folder)
    try:
        with contextlib.chdir(folder):
            main(fit())
    finally:
        sys.argv = argv
    return folder


def cut(path: Path) -> None:
    """Damage a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def fit(*more: str) -> list[str]:
    return ["fit", *SMALL, WORKERS, "pictures=0", "data.root=.", "hydra.run.dir=run", *more]


TRAIN, TEST = "widget/train/good/003.png", "widget/test/spot/001.png"
MASK = "widget/ground_truth/spot/001_mask.png"
SWEEP = ["-m", "gaussian.eps=0.01,0.1", "hydra.sweep.dir=sweep"]

BAD_INPUT = {
    "a damaged image": (TRAIN, fit(), "003.png: cannot be read as an image"),
    "a damaged test image": (TEST, fit(), "001.png: cannot be read as an image"),
    "a damaged mask": (MASK, fit(), "001_mask.png: cannot be read as an image"),
    "one pass": (TRAIN, fit(*SWEEP), "2 of the jobs failed"),
    "one by one": (TRAIN, fit(*SWEEP, "hydra/launcher=basic"), "2 of the jobs failed"),
    "two categories": (TRAIN, fit("data.category=[widget,gadget]"), "2 of 2 failed"),
    "a box": (None, fit("preprocessing.roi=[0,0,900,900]"), "roi [0, 0, 900, 900]"),
    "no folder": (None, fit("data.category=none"), "no category 'none'"),
    "a damaged model": ("run/model.ckpt", ["evaluate", "run", WORKERS], "run/model.ckpt"),
    "no model": (None, ["predict", "nowhere", "widget", WORKERS], "nowhere"),
    "strict": (TEST, ["predict", "run", "widget/test", WORKERS, "strict=true"], "001.png"),
    "nothing to score": (TEST, ["predict", "run", TEST, WORKERS], "001.png"),
    "nothing to calibrate by": (TEST, ["calibrate", "run", TEST, WORKERS, "out=o"], "be read"),
}
"""What is damaged, the command, and what it says."""


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(commands: Commands, fitted: Path, tmp_path: Path, case: str) -> None:
    damaged, command, message = BAD_INPUT[case]
    root = copytree(fitted, tmp_path / "root")
    if command[0] == "fit":
        rmtree(root / "run")
    if damaged:
        cut(root / damaged)
    status, printed = commands.start(command, root).wait(LIMIT)
    assert message in printed
    assert "Traceback" not in printed
    assert status == 1


def test_an_error_in_a_callback(commands: Commands, root: Path) -> None:
    raising = (
        "def fail(*_): raise RuntimeError('of a callback')\n"
        "from experiments.callbacks.resume_state import ResumeState\n"
        "ResumeState.on_train_batch_end = fail"
    )
    status, printed = commands.start(fit(), root, raising).wait(LIMIT)
    assert "of a callback" in printed
    assert status == 1


@pytest.mark.parametrize(("then", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("sweep", [False, True])
def test_a_signal_while_images_are_loaded(
    commands: Commands, root: Path, sweep: bool, then: int, expected: int
) -> None:
    images = root / "widget/train/good"
    for i in range(3000):
        (images / f"copy_{i}.png").symlink_to(images / "000.png")
    slow = fit("loading.batch_size=1", "checkpoint_every_n_images=50", *SWEEP * sweep)
    slow += ["loading.num_workers=0"] * sweep  # Python drops what is raised while it forks
    command = commands.start(slow, root)
    until = time.monotonic() + LIMIT
    begun = "One pass for" if sweep else "counted so far"
    while time.monotonic() < until and begun not in command.printed:
        time.sleep(0.1)
    os.kill(command.pid, then)
    status, printed = command.wait(LIMIT)
    assert "Traceback" not in printed
    assert status == expected
    assert not list(root.glob("sweep/.*"))  # the features of the pass
