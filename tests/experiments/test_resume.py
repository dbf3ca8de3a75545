"""Fits that are stopped, and go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree
from typing import Any

import pytest
import torch

import padim
from experiments.app import TERMINATED
from experiments.cli import main
from oracle import statistics_error
from padim import load_checkpoint
from runs import SMALL, failure
from trees import mvtec_tree

PLAIN = [*SMALL, "pictures=0", "logger=none", "loading.batch_size=3", "checkpoint_every_n_images=6"]

STOPPED = """
import os, sys
from experiments.cli import main
from padim import LitPaDiM
step, (kind, *arguments) = LitPaDiM.training_step, sys.argv[1:]
def stop(self, batch, batch_idx):
    step(self, batch, batch_idx)
    if batch_idx == 3:
        os.kill(os.getpid(), int(kind))
LitPaDiM.training_step = stop
main(arguments)
"""
"""The command with a signal in the middle of its fourth batch."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root, train=17)
    return root


@pytest.fixture(scope="module")
def uninterrupted(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    argv = sys.argv
    try:
        main(["fit", *PLAIN, f"data.root={root}", f"hydra.run.dir={run}"])
    finally:
        sys.argv = argv
    return run


def stopped(kind: signal.Signals, run: Path, root: Path, *more: str) -> tuple[int, str]:
    """Exit status and output of a fit that gets a signal."""
    arguments = ["fit", *PLAIN, f"data.root={root}", f"hydra.run.dir={run}", *more]
    command = [sys.executable, "-c", STOPPED, str(int(kind)), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(padim.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def counted(run: Path) -> list[int]:
    files = sorted(run.glob("partial_fit_*.ckpt"))
    return [len(torch.load(file, weights_only=True)["paths"]) for file in files]


def assert_same_model(run: Path, other: Path) -> None:
    mine, theirs = load_checkpoint(run).model, load_checkpoint(other).model
    assert statistics_error(mine.statistics, theirs.statistics) < 1e-6
    assert torch.equal(mine.calibration.keys, theirs.calibration.keys)
    torch.testing.assert_close(
        mine.calibration.scores, theirs.calibration.scores, rtol=1e-4, atol=0
    )


@pytest.fixture(scope="module")
def terminated(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit that got SIGTERM."""
    run = tmp_path_factory.mktemp("stopped") / "a run"
    status, printed = stopped(signal.SIGTERM, run, root)
    assert status == TERMINATED
    assert f"go on with padim fit resume={run}" in printed
    assert counted(run) == [12]
    return run


def test_a_fit_that_is_terminated_goes_on(
    terminated: Path, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copytree(terminated, tmp_path / "a run")
    main(["fit", f"resume={run}"])
    assert "12 images are counted already" in capsys.readouterr().err
    assert_same_model(run, uninterrupted)
    assert counted(run) == []
    metrics = (run / "metrics.json").read_text()
    main(["fit", f"resume={run}"])  # which is finished
    assert (run / "metrics.json").read_text() == metrics


def test_a_fit_that_is_killed_goes_on(root: Path, uninterrupted: Path, tmp_path: Path) -> None:
    status, _ = stopped(signal.SIGKILL, tmp_path, root)
    assert status == -signal.SIGKILL
    assert counted(tmp_path) == [6]
    main(["fit", f"resume={tmp_path}"])
    assert_same_model(tmp_path, uninterrupted)


def test_a_part_that_another_has_taken_over_counts_once(
    terminated: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = copytree(terminated, tmp_path / "run")
    copyfile(run / "partial_fit_0.ckpt", run / "partial_fit_1.ckpt")
    main(["fit", f"resume={run}"])
    assert_same_model(run, uninterrupted)


def test_a_new_fit_in_the_folder_begins_anew(
    root: Path, terminated: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = copytree(terminated, tmp_path / "run")
    main(["fit", *PLAIN, f"data.root={root}", f"hydra.run.dir={run}"])
    assert_same_model(run, uninterrupted)


@pytest.mark.parametrize("other", [{"model": {}}, {"bits": 12}], ids=str)
def test_a_part_of_another_configuration(
    terminated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    run = copytree(terminated, tmp_path / "run")
    part = torch.load(run / "partial_fit_0.ckpt", weights_only=True)
    torch.save({**part, **other}, run / "partial_fit_0.ckpt")
    message = failure(capsys, ["fit", f"resume={run}"])
    assert "holds a part of a fit of another configuration" in message


def test_a_damaged_part(
    terminated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copytree(terminated, tmp_path / "run")
    for content in (b"", (run / "partial_fit_0.ckpt").read_bytes()[:-30]):
        (run / "partial_fit_0.ckpt").write_bytes(content)
        said = failure(capsys, ["fit", f"resume={run}"])
        assert "partial_fit_0.ckpt is truncated or no checkpoint" in said


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: copyfile(path.with_name("016.png"), path)]
)
def test_counted_images_that_have_changed(
    change: Callable[[Path], object],
    terminated: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copytree(terminated, tmp_path / "run")
    image = root / "widget/train/good/003.png"
    kept = image.rename(tmp_path / "003.png")
    try:
        copyfile(kept, image)
        change(image)
        said = failure(capsys, ["fit", f"resume={run}"])
    finally:
        kept.replace(image)
    assert f"Error: {image} is another file, or gone, since it was counted: begin a new" in said


def test_a_folder_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no folder of a run or a sweep" in failure(capsys, ["fit", f"resume={tmp_path}"])


def test_impossible_interval(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", *PLAIN, f"data.root={root}", f"hydra.run.dir={tmp_path}"]
    message = failure(capsys, [*arguments, "checkpoint_every_n_images=0"])
    assert "checkpoint_every_n_images must be a whole number of at least 1" in message
