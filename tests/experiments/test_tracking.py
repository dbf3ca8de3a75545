"""What arrives at the trackers, read back through their own readers; none can fail a run."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.models import get_model_info
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.get_experiment import Handler as GetExperiment
from tensorboard.plugins.hparams.list_session_groups import Handler as ListSessionGroups
from wandb.sdk.launch.sweeps import utils as wandb_sweeps

import conf
import trackers
from experiments.cli import main
from experiments.sweeps.upload import FILES
from experiments.tables.results import read_result
from runs import SMALL, rows
from tracked import merged, records, runs_of
from trees import mvtec_tree

CURVES = {"image/roc", "image/pr", "pixel/roc", "pixel/pr", "pixel/pro"}
NARROW = [option for option in SMALL if not option.startswith(("reduction", "data.category"))]

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root)
    mvtec_tree(root, "gadget")
    return root


@pytest.fixture(scope="module")
def run(store: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, whose run all trackers have followed."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    options = ["logger=[csv,wandb,tensorboard,mlflow]", "logger.wandb.notes=a note"]
    options += ["logger.wandb.log_model=true", "logger.mlflow.log_model=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)
        main(["fit", *SMALL, f"data.root={root}", f"hydra.run.dir={folder}", *options])
    return folder


@pytest.fixture(scope="module")
def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def scores(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "predictions.csv")


@pytest.fixture(scope="module")
def curves(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "curves.csv")


def test_csv(run: Path, metrics: dict[str, float]) -> None:
    logged = rows(run / "csv" / "metrics.csv")
    assert {name: float(logged[-1][name]) for name in metrics} == metrics
    live = [float(row["fit/images_per_s"]) for row in logged if row["fit/images_per_s"]]
    assert len(live) == 1  # a batch of six images
    assert live[0] > 0
    assert yaml.safe_load((run / "csv" / "hparams.yaml").read_text())["reduction.d"] == 20


def test_an_evaluation_is_described_with_its_model(run: Path, tmp_path: Path) -> None:
    main(["evaluate", str(run), "trainer=cpu", "pictures=0", f"hydra.run.dir={tmp_path}"])
    config = yaml.safe_load((tmp_path / "csv" / "hparams.yaml").read_text())
    assert (config["backbone.name"], config["reduction.d"]) == ("test_resnet", 20)


def test_wandb(
    run: Path, metrics: dict[str, float], scores: pd.DataFrame, curves: pd.DataFrame
) -> None:
    found = records(run)
    (described,) = [content for kind, content in found if kind == "run"]
    assert described["display_name"].startswith("widget ")
    assert described["run_group"] == "first"
    assert described["job_type"] == "fit"
    assert described["notes"] == "a note"
    assert "reduction.d=20" in described["tags"]
    assert not any("data.root" in tag or "logger" in tag for tag in described["tags"])

    config = merged(found, "config", "update")
    assert config["backbone"]["name"] == "test_resnet"
    assert config["reduction"]["d"] == 20
    assert config["data"]["category"] == "widget"
    assert "logger" not in config

    logged = merged(found, "history", "item")  # nested keys are joined with dots
    assert {name: logged[name] for name in metrics} == pytest.approx(metrics)
    (files,) = run.glob("wandb/offline-run-*/files")
    assert set(curves["curve"]) == CURVES
    for name, points in curves.groupby("curve"):
        table = json.loads((files / logged[f"curves/{name}_table.path"]).read_text())
        np.testing.assert_allclose(np.array(table["data"]), points[["x", "y"]], rtol=1e-6)
        assert f"_wandb.visualize.curves/{name}" in config  # as a chart, not only a table
    for kind, label in {"normal": 0, "anomalous": 1}.items():
        assert sum(logged[f"scores/{kind}.values"]) == (scores["label"] == label).sum()
        assert logged[f"scores/{kind}.bins"][0] == pytest.approx(scores["score"].min())

    table = json.loads((files / logged["images.path"]).read_text())
    check_images(pd.DataFrame(table["data"], columns=table["columns"]), scores)
    for caption, laid in zip(logged["masks.captions"], logged["masks.all_masks"], strict=True):
        truth, prediction = (
            np.array(Image.open(files / laid[name]["path"]))
            for name in ("ground truth", "prediction")
        )
        drawn = np.array(Image.open(run / "gallery" / f"{caption.split()[0]}_mask.png"))
        np.testing.assert_array_equal(truth, drawn)
        assert prediction[truth == 1].mean() > 0.9 if "spot" in caption else not truth.any()
    assert merged(found, "summary", "update")["image/auroc"] == metrics["image/auroc"]
    (data,) = [c for kind, c in found if kind == "artifact" and c["type"] == "dataset"]
    assert data["name"] == "widget"
    assert json.loads(data["metadata"]).items() >= {"images": 6, "category": "widget"}.items()
    uploads = [c["manifest"]["contents"] for kind, c in found if kind == "artifact"]
    held = {Path(entry["path"]).name for contents in uploads for entry in contents}
    assert "model.ckpt" in held
    assert sum(name.endswith(".png") for name in held) == len(shown_pictures(run))


def check_images(table: pd.DataFrame, scores: pd.DataFrame) -> None:
    """All four test images are there, each with its own score and label."""
    assert set(table["kind"]) == {"best", "worst"}
    both = table.merge(scores, on="path", validate="1:1")
    assert len(both) == len(scores)
    np.testing.assert_allclose(both["score_x"], both["score_y"], rtol=1e-6)
    assert both["label_x"].tolist() == both["label_y"].tolist()
    assert both["defect_x"].tolist() == both["defect_y"].tolist()


def shown_pictures(run: Path) -> list[Path]:
    return [path for path in (run / "pictures").iterdir() if path.name != "overview.png"]


def test_tensorboard(run: Path, metrics: dict[str, float], scores: pd.DataFrame) -> None:
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0})
    events.Reload()
    tags: Any = events.Tags()
    assert set(tags["scalars"]) >= {*metrics, "fit/images_per_s", "fit/backbone_s"}
    for name, value in metrics.items():
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-6)
    text = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0]
        for tag in tags["tensors"]
        if tag.endswith("text_summary")
    }
    assert b"reduction.d: 20" in text["config/text_summary"]
    assert all(path.encode() in text["images/text_summary"] for path in scores["path"])
    assert "_hparams_/session_start_info" in events.summary_metadata
    for kind, label in {"normal": 0, "anomalous": 1}.items():
        (histogram,) = events.Histograms(f"scores/{kind}")
        chosen = scores["score"][scores["label"] == label]
        assert histogram.histogram_value.num == len(chosen)
        assert histogram.histogram_value.max == pytest.approx(chosen.max())
    assert {f"images/{path.stem}" for path in shown_pictures(run)} | {
        "curves",
        "scores",
    } == set(tags["images"])


def test_mlflow(run: Path, store: str, metrics: dict[str, float], scores: pd.DataFrame) -> None:
    client = MlflowClient(store)
    (found,) = runs_of(client, "first")
    assert {name: found.data.metrics[name] for name in metrics} == pytest.approx(metrics)
    assert found.data.params["backbone.name"] == "test_resnet"
    assert found.data.params["reduction.d"] == "20"
    assert found.data.params["data.category"] == "widget"
    assert found.data.tags["job_type"] == "fit"
    assert found.info.status == "FINISHED"
    assert found.info.run_name.startswith("widget ")
    files = {item.path for item in client.list_artifacts(found.info.run_id)}
    assert {"curves.png", "scores.png", "curves.csv", "predictions.csv"} <= files
    (data,) = found.inputs.dataset_inputs
    assert data.dataset.name == "widget"
    assert json.loads(data.dataset.profile)["images"] == 6
    assert data.tags[0].value == "training"
    kept = {item.path for item in client.list_artifacts(found.info.run_id, "model")}
    assert kept == {"model/model.ckpt", "model/MLmodel"}
    signature = get_model_info(f"runs:/{found.info.run_id}/model").signature
    assert signature.inputs.inputs[0].shape == (-1, 3, 64, 64)
    assert {spec.name: spec.shape for spec in signature.outputs.inputs} == {
        "scores": (-1,),
        "maps": (-1, 64, 64),
    }
    table = json.loads(
        Path(client.download_artifacts(found.info.run_id, "images.json")).read_text()
    )
    shown = pd.DataFrame(table["data"], columns=table["columns"])
    check_images(shown, scores)
    pictures = {
        item.path for item in client.list_artifacts(found.info.run_id, "table_images/images")
    }
    assert {picture["filepath"] for picture in shown["picture"]} <= pictures


@pytest.fixture(scope="module")
def sweep(store: str, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder, whose two jobs of two categories all trackers have followed."""
    trackers.BEGUN.clear()
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    described = "name:'{category} ${run:name}',group:'${run:folder}',tags:'${run:tags}'"
    probe = f"+logger.probe={{_target_:trackers.Probe,{described}}}"
    jobs = ["reduction.d=5,10", "data.category=[gadget,widget]"]
    options = ["seed=1", "reduction.seed=${seed}", *NARROW, f"data.root={root}", "pictures=0"]
    options += ["logger=[wandb,tensorboard,mlflow]", probe, f"hydra.sweep.dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)
        main(["fit", "-m", *options, *jobs])
    return folder


def test_each_category_of_each_job_of_a_sweep_is_a_run_of_one_group(sweep: Path) -> None:
    found = [tracker.described for tracker in trackers.BEGUN]
    assert {run["group"] for run in found} == {"sweep"}
    ends = sorted((run["name"].split()[0], run["name"].split(",")[-1]) for run in found)
    assert ends == [(c, f"reduction.d={d}") for c in ("gadget", "widget") for d in (10, 5)]
    for tracker in trackers.BEGUN:
        (config,) = [what for method, what in tracker.received if method == "log_hyperparams"]
        category, d = config["data.category"], config["reduction.d"]
        assert tracker.described["name"].startswith(f"{category} seed=1,")
        assert {f"reduction.d={d}", "seed=1"} <= set(tracker.described["tags"])
        assert tracker.received[-1] == ("finalize", "success")
    for folder, d in {"0/gadget": 5, "1/widget": 10}.items():  # not all in one run of W&B
        arrived = records(sweep / folder)
        (run,) = [content for kind, content in arrived if kind == "run"]
        assert run["run_group"] == "sweep"
        assert f"reduction.d={d}" in run["tags"]
        assert merged(arrived, "config", "update")["reduction"]["d"] == d


def test_a_sweep_has_a_run_of_its_own_on_wandb(sweep: Path) -> None:
    found = records(sweep)
    (described,) = [content for kind, content in found if kind == "run"]
    assert described["display_name"] == "gadget,widget sweep"
    assert (described["run_group"], described["job_type"]) == ("sweep", "sweep")
    assert {"reduction.d=5,10", "reduction.seed={seed}"} <= set(described["tags"])
    config = merged(found, "config", "update")
    assert config["reduction"]["d"] == "5,10"
    assert config["backbone"]["name"] == "test_resnet"
    logged = merged(found, "history", "item")
    (files,) = sweep.glob("wandb/offline-run-*/files")
    for name in ("table", "sweep"):
        written = pd.read_csv(sweep / f"{name}.csv")
        table = json.loads((files / logged[f"{name}.path"]).read_text())
        assert table["columns"] == list(written)
        assert len(table["data"]) == len(written)
    assert (files / logged["plots/reduction_d.path"]).is_file()


def test_a_sweep_has_a_run_of_its_own_on_tensorboard(sweep: Path) -> None:
    events = EventAccumulator(str(sweep / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("table/text_summary")
    assert text.tensor_proto.string_val[0].decode() == (sweep / "table.md").read_text()
    assert "plots/reduction.d" in events.Tags()["images"]


def test_tensorboard_compares_the_jobs_of_a_sweep(sweep: Path) -> None:
    """As its view of parallel coordinates does: settings that differ, and metrics."""
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(sweep))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(sweep))
    context = Context(TBContext(data_provider=provider))
    asked: Any = RequestContext(), context, ""
    experiment = GetExperiment(*asked, api_pb2.GetExperimentRequest()).run()
    differing = {info.name: info.type for info in experiment.hparam_infos if info.differs}
    assert differing == {
        "reduction.d": api_pb2.DATA_TYPE_FLOAT64,
        "data.category": api_pb2.DATA_TYPE_STRING,
    }
    assert {metric.name.tag for metric in experiment.metric_infos} >= {"image/auroc", "pixel/pro"}
    everything = api_pb2.ListSessionGroupsRequest(
        slice_size=99, allowed_statuses=[api_pb2.STATUS_UNKNOWN]
    )
    for metric in experiment.metric_infos:
        everything.col_params.add(metric=metric.name)
    groups = ListSessionGroups(*asked, everything).run().session_groups
    shown = {
        (
            group.hparams["reduction.d"].number_value,
            group.hparams["data.category"].string_value,
            next(m.value for m in group.metric_values if m.name.tag == "image/auroc"),
        )
        for group in groups
    }
    assert shown == {
        (d, category, read_result(sweep / job / category).metrics["image/auroc"])
        for job, d in (("0", 5), ("1", 10))
        for category in ("gadget", "widget")
    }


def test_a_sweep_is_the_parent_of_its_jobs_on_mlflow(sweep: Path, store: str) -> None:
    client = MlflowClient(store)
    runs = {run.data.tags["folder"]: run for run in runs_of(client, "sweep")}
    parent = runs.pop(str(sweep))
    assert parent.data.tags["job_type"] == "sweep"
    assert parent.data.params["reduction.d"] == "5,10"
    shared = runs.pop(str(sweep / "0" / "pass"))
    assert shared.data.tags["job_type"] == "pass"
    assert shared.info.run_name.endswith("get pass")
    assert shared.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert shared.data.metrics["fit/images_per_s"] > 0
    assert {Path(folder).relative_to(sweep) for folder in runs} == {
        Path(job, category) for job in "01" for category in ("gadget", "widget")
    }
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["job_type"] == "fit"
    kept = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert kept == {*FILES, "pictures"}
    plots = {item.path for item in client.list_artifacts(parent.info.run_id, "pictures")}
    assert "pictures/reduction.d.png" in plots


def test_the_wandb_sweep_drives_fit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = wandb_sweeps.load_sweep_config(str(Path(conf.__file__).parent / "wandb_sweep.yaml"))
    assert config is not None
    chosen = {}
    for name, given in config["parameters"].items():
        chosen[name] = {"value": given.get("value", given.get("max", given.get("values", [0])[0]))}
    chosen["data"]["value"], chosen["data.category"]["value"] = "mvtec", "widget"
    # As the agent does it.
    parts = wandb_sweeps.create_sweep_command_args({"args": chosen})
    command = []
    for part in wandb_sweeps.create_sweep_command(config["command"]):
        command += parts.get(part[2:-1], []) if part.startswith("${") else [part]
    assert command[:2] == ["padim", "fit"]
    monkeypatch.setenv("WANDB_SWEEP_ID", "swept")
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    monkeypatch.chdir(tmp_path)
    small = [
        "trainer=cpu",
        "preprocessing.resize=64",
        "preprocessing.crop=null",
        "loading.num_workers=0",
    ]
    main([*command[1:], *small, f"data.root={root}"])
    found = records(tmp_path / "runs" / "swept" / "one")
    assert config["metric"]["name"] in merged(found, "history", "item")
    used = merged(found, "config", "update")
    assert used["reduction"]["d"] == config["parameters"]["reduction.d"]["max"]
    assert used["gaussian"]["eps"] == config["parameters"]["gaussian.eps"]["max"]
