import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Commands
from experiments.cli import main
from predicting import calibration, load_with
from runs import SMALL
from trees import mvtec_tree


@pytest.fixture(autouse=True)
def _restore_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)  # the command writes its own


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    server = Commands()
    yield server
    server.close()


@pytest.fixture(scope="module")
def widget(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mvtec_tree(tmp_path_factory.mktemp("data"), train=9)


@pytest.fixture(scope="module")
def run(widget: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    argv, folder = sys.argv, tmp_path_factory.mktemp("runs") / "run"
    try:
        sharp = ["map.sigma=2", "gaussian.eps=0.1", "pictures=0"]
        main(["fit", *SMALL, *sharp, f"data.root={widget.parent}", f"hydra.run.dir={folder}"])
    finally:
        sys.argv = argv
    return folder


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    load_with(monkeypatch, calibration())


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    load_with(monkeypatch, None)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where MLflow keeps its runs; a new database takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.chdir(folder)  # its artifacts go below
        yield f"sqlite:///{folder}/mlflow.db"
