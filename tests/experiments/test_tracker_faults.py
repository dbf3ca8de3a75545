"""Trackers that fail, are missing or cannot be reached end no run; names of runs."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from mlflow import MlflowClient
from omegaconf import DictConfig, OmegaConf

import trackers
from experiments import loggers as loggers_module
from experiments.cli import main
from experiments.loggers import TolerantLogger, open_loggers
from experiments.naming import _name
from experiments.sweeps.upload import upload_sweep
from experiments.tables.results import Result, read_results
from runs import SMALL, failure, rows
from tracked import merged, records, runs_of

NARROW = [option for option in SMALL if not option.startswith(("reduction", "data.category"))]

pytestmark = pytest.mark.usefixtures("store")


def configured(**loggers: dict[str, Any]) -> DictConfig:
    return OmegaConf.create({"data": {"category": "widget"}, "logger": loggers})


CSV = {"_target_": "pytorch_lightning.loggers.CSVLogger", "name": "", "version": "csv"}
ONLINE = {"_target_": "pytorch_lightning.loggers.WandbLogger", "project": "p", "mode": "online"}


def log(folder: Path, **loggers: dict[str, Any]) -> None:
    """What a run does with its loggers."""
    with open_loggers(configured(**loggers), folder) as opened:
        for logger in opened:
            _ = logger.experiment
            logger.log_metrics({"image/auroc": 1.0, "epoch": 0})


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"category": "widget"}, "widget"),
        ({"scene": 3}, "03"),
        ({"name": None, "normal": "parts/good", "_target_": "datamodules.Folder"}, "parts"),
        ({"_target_": "mine.Parts"}, "Parts"),
    ],
)
def test_a_run_has_a_short_name(tmp_path: Path, data: dict[str, Any], name: str) -> None:
    trackers.BEGUN.clear()
    probe = {
        "_target_": "trackers.Probe",
        "name": "{category} " + "d=1," * 99 + "n=2",
        "group": "x" * 200,
    }
    with open_loggers(OmegaConf.create({"data": data, "logger": {"probe": probe}}), tmp_path):
        (tracker,) = trackers.BEGUN
    assert tracker.described["name"].startswith(f"{name} d=1,d=1,")
    assert tracker.described["name"].endswith(",d=1,n=2")
    assert len(tracker.described["name"]) == 120
    assert len(tracker.described["group"]) == 200


def test_the_name_of_a_run_has_no_paths() -> None:
    overrides = ["data=folder", "data.normal='/a/b c/good'", "data.name=nut", "reduction.d=5"]
    overrides += ["resume='/a/b'"]
    assert _name(overrides) == "data=folder,reduction.d=5"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "experiments.loggers"]


@pytest.mark.parametrize(
    "where", ["__init__", "experiment", "log_hyperparams", "log_metrics", "finalize"]
)
def test_a_logger_that_fails_is_named_and_fails_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    log(tmp_path, broken={"_target_": "trackers.Probe", "where": where}, csv=CSV)
    assert warnings(caplog) == [f"The run goes on without its logger broken: {where} is broken"]
    (row,) = rows(tmp_path / "csv" / "metrics.csv")
    assert float(row["image/auroc"]) == 1
    assert "epoch" not in row


def test_the_users_own_logger_raises_as_ever() -> None:
    with pytest.raises(RuntimeError), TolerantLogger.guarding(trackers.Probe("")):
        raise RuntimeError


def test_a_run_is_complete_where_no_tracker_can_write(
    widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "csv").mkdir(parents=True)
    (run / "csv" / "metrics.csv").symlink_to("/dev/full")
    (run / "tensorboard").touch()
    (run / "wandb").touch()
    places = [f"hydra.run.dir={run}", f"logger.mlflow.tracking_uri=sqlite:///{run}/wandb/x.db"]
    main(
        [
            "fit",
            *SMALL,
            f"data.root={widget.parent}",
            "logger=[csv,wandb,tensorboard,mlflow]",
            *places,
        ]
    )
    said = capsys.readouterr().err
    for name in ("csv", "tensorboard", "mlflow", "wandb"):
        assert said.count(f"without its logger {name}: ") == 1
    assert "logger csv: [Errno 28] No space left on device" in said
    assert json.loads((run / "metrics.json").read_text())["image/auroc"] == 1
    assert {"predictions.csv", "curves.csv", "pictures", "model.ckpt", "table.csv"} <= {
        path.name for path in run.iterdir()
    }


def test_a_run_that_fails_is_said_to(store: str, tmp_path: Path) -> None:
    settings = {
        "_target_": "pytorch_lightning.loggers.MLFlowLogger",
        "tracking_uri": store,
        "experiment_name": "padim",
        "tags": {"group": "failed"},
    }
    with pytest.raises(ZeroDivisionError), open_loggers(configured(mlflow=settings), tmp_path):
        _ = 1 / 0
    (found,) = runs_of(MlflowClient(store), "failed")
    assert found.info.status == "FAILED"
    with (
        pytest.raises(ZeroDivisionError),
        open_loggers(configured(wandb={**ONLINE, "mode": "offline"}), tmp_path),
    ):
        _ = 1 / 0
    assert ("exit", 1) in [(kind, content.get("exit_code")) for kind, content in records(tmp_path)]


def test_a_sweep_ends_where_its_tracker_cannot_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0").mkdir()
    Result("widget", {"data.category": "widget"}, {"image/auroc": 1.0}).write(tmp_path / "0")
    (tmp_path / "tensorboard").touch()
    settings = {**CSV, "_target_": "pytorch_lightning.loggers.TensorBoardLogger"}
    config = configured(tensorboard={**settings, "version": "tensorboard"})
    upload_sweep(config, [*read_results(tmp_path)], tmp_path)
    (said,) = warnings(caplog)
    assert said.startswith("The run goes on without its logger tensorboard: ")


@pytest.fixture
def no_wandb_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # it reads its surroundings once
    loggers_module._wandb_unusable.cache_clear()
    yield
    monkeypatch.undo()
    wandb.teardown()
    loggers_module._wandb_unusable.cache_clear()


@pytest.mark.usefixtures("no_wandb_login")
def test_without_a_login_runs_stay_on_disk_and_nobody_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wandb.errors.term.can_use_terminput", lambda: True)  # as in a terminal
    for _ in range(2):
        log(tmp_path, wandb=ONLINE)
    assert [line.partition(": ")[2] for line in warnings(caplog)] == [
        "nobody is logged in (`wandb login`)"
    ] * 2
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 2


@pytest.mark.usefixtures("no_wandb_login")
def test_without_a_network_runs_stay_on_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    log(tmp_path, wandb=ONLINE)
    (said,) = warnings(caplog)
    assert "on disk, for `wandb sync`" in said
    assert "127.0.0.1:9" in said
    assert merged(records(tmp_path), "history", "item")["image/auroc"] == 1


def test_a_missing_package_is_named(
    widget: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("mlflow", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    options = [f"data.root={widget.parent}", "logger=mlflow", f"hydra.run.dir={tmp_path}"]
    said = failure(capsys, ["fit", *SMALL, *options])
    assert "logger=mlflow needs a package that is missing" in said
    assert "pip install 'padim-lightning[mlflow]'" in said
