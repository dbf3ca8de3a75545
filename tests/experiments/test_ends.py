"""Every command ends soon after its error or a signal, also with decoding workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runs import SMALL
from trees import mvtec_tree

LIMIT = 60
"""Seconds; a command that hangs would wait for ever, and this machine may be busy."""

RAISING_CALLBACK = """
import sys
from pytorch_lightning import Callback, Trainer
from datamodules import Loading, MVTec, Preprocessing
from padim import Backbone, LitPaDiM, PaDiM, RandomChannels

class Raises(Callback):
    def on_train_batch_end(self, *_):
        raise RuntimeError("of a callback")

data = MVTec(sys.argv[1], "widget", Preprocessing(64, None), Loading(2, 2))
model = PaDiM(Backbone("test_resnet", [1], "random", (64, 64)), RandomChannels(8))
trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                  callbacks=[Raises()])
trainer.fit(LitPaDiM(model), datamodule=data)
"""


def ended(
    command: list[str],
    folder: Path,
    started: Callable[[str], bool] | None = None,
    then: int | None = None,
) -> tuple[int, str]:
    """Status and output of a command that has to end within `LIMIT`.

    Args:
        command: arguments of Python.
        folder: working folder.
        started: says of a line printed that a signal can be sent.
        then: the signal.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout
    printed = ""
    try:
        while started and (line := process.stdout.readline()):
            printed += line
            if started(line):
                time.sleep(0.5)
                process.send_signal(then)
                break
        rest, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        pytest.fail(f"it did not end: {printed}")
    finally:
        process.kill()
    return process.returncode, printed + rest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mvtec_tree(tmp_path)
    return tmp_path


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def fit(root: Path, *more: str) -> list[str]:
    workers = ["loading.num_workers=2", f"data.root={root}", f"hydra.run.dir={root / 'run'}"]
    return ["-m", "experiments.fit", *more, *SMALL, *workers]


def test_a_damaged_image(root: Path) -> None:
    cut(root / "widget/train/good/003.png")
    status, printed = ended(fit(root), root)
    assert status == 1
    assert printed.count("Error: ") == 1
    assert "003.png: cannot be read as an image" in printed


def test_a_damaged_test_image(root: Path) -> None:
    cut(root / "widget/test/spot/001.png")
    status, printed = ended(fit(root), root)
    assert status == 1
    assert "001.png: cannot be read as an image" in printed


def test_a_sweep_whose_images_are_damaged(root: Path) -> None:
    cut(root / "widget/train/good/003.png")
    sweep = ["-m", "gaussian.eps=0.01,0.1", f"hydra.sweep.dir={root / 'sweep'}"]
    status, printed = ended(fit(root, *sweep), root)
    assert status == 1
    assert "2 of the jobs failed" in printed


def test_an_error_in_a_callback(root: Path) -> None:
    status, printed = ended(["-c", RAISING_CALLBACK, str(root)], root)
    assert status == 1
    assert "of a callback" in printed


@pytest.mark.parametrize(("then", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_images_are_loaded(root: Path, then: int, expected: int) -> None:
    images = root / "widget/train/good"
    for i in range(3000):
        (images / f"copy_{i}.png").symlink_to(images / "000.png")
    begun = lambda line: "counted so far" in line  # noqa: E731
    slow = ["loading.batch_size=1", "checkpoint_every_n_images=50"]
    status, printed = ended(fit(root, *slow), root, begun, then)
    assert "Traceback" not in printed
    assert status == expected
