"""Commands on several devices, each of which is a process on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from experiments.errors import explain
from oracle import statistics_error
from padim import load_checkpoint
from runs import SMALL, failure, rows
from trees import mvtec_tree

SEVERAL = [*SMALL, "pictures=2", "trainer=ddp_cpu"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mvtec_tree(tmp_path / "data", train=7)
    monkeypatch.chdir(tmp_path)


def files(folder: str) -> list[str]:
    """What a run has written, but Hydra's own."""
    names = [str(path.relative_to(folder)) for path in sorted(Path(folder).rglob("*"))]
    return [name for name in names if not name.startswith(".hydra")]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which Lightning ends where another one fails."""
    name, *overrides = arguments
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", f"experiments.{name}", *overrides]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_fit_in_two_processes_writes_what_one_writes() -> None:
    # What is made of so few images in float32 would differ by more with less on the diagonal.
    settings = ["data.root=data", "gaussian.eps=1", "threshold.false_alarm_rate=0.3"]
    main(["fit", *SMALL, "pictures=2", *settings, "hydra.run.dir=one"])
    printed = run("fit", *SEVERAL, *settings, "hydra.run.dir=two")
    assert printed.returncode == 0
    assert printed.stderr.count("Fitted on 7 images by 2 processes") == 1
    assert printed.stdout.count("widget") == printed.stderr.count("Written to") == 1
    assert "Traceback" not in printed.stderr
    assert "sync_dist" not in printed.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["data", "one", "two"]
    assert files("two") == files("one")
    one, two = (json.loads(Path(run, "metrics.json").read_text()) for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name not in ("cost/fit_s", "cost/image_s"):
            assert two[name] == pytest.approx(value, rel=1e-6), name
    statistics = [load_checkpoint(run).model.statistics for run in ("two", "one")]
    assert statistics_error(*statistics) < 1e-6
    tables = (rows(Path(run, "predictions.csv")) for run in ("two", "one"))
    for mine, other in zip(*tables, strict=True):
        assert float(mine.pop("score")) == pytest.approx(float(other.pop("score")), rel=1e-6)
        assert mine == other


def test_an_error_in_one_process_ends_all_and_is_said_in_a_line() -> None:
    main(["fit", *SMALL, "pictures=0", "data.root=data", "hydra.run.dir=one"])
    broken = Path("data/widget/test/spot/001.png").absolute()
    broken.write_bytes(b"no image")  # the last process's to read
    printed = run("evaluate", "checkpoints=one", "trainer=ddp_cpu")
    assert printed.returncode
    assert f"Error: {broken}: not an image\n" in printed.stderr
    assert "Traceback" not in printed.stderr
    assert len(list(Path("runs").iterdir())) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"),
        torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1, remote error"),
    ],
)
def test_what_follows_from_the_error_of_another_process_is_no_bug(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert explain(error, "fit") is None
    monkeypatch.setattr("experiments.errors.several", lambda: True)
    assert explain(error, "fit") == "another process of this run failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.strategy=auto"], "2 devices take trainer=ddp, ddp_cpu or slurm"),
        (["-m", "reduction.seed=0,1"], "a sweep on several devices is started by torchrun"),
    ],
)
def test_what_several_devices_take(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in failure(capsys, ["fit", *arguments, *SEVERAL, "data.root=data"])


def test_predict_takes_one_device(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SMALL, "pictures=0", "data.root=data", "hydra.run.dir=one"])
    said = failure(capsys, ["predict", "one", "data", "trainer=ddp_cpu"])
    assert "2 devices are for fit, evaluate and update" in said
