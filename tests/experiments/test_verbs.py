"""The commands end to end, on small images made here."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from experiments.app import INTERRUPTED
from experiments.cli import main
from padim import LitPaDiM, load_checkpoint
from runs import SMALL, failure, rows
from trees import mvtec_tree

COSTS = {"cost/fit_s", "cost/image_s", "cost/state_gb"}


def fit(root: Path, run: Path, *more: str) -> Path:
    main(["fit", *SMALL, f"data.root={root}", f"hydra.run.dir={run}", *more])
    return run


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith("_s")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root)
    return root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    argv = sys.argv
    try:
        return fit(root, tmp_path_factory.mktemp("runs") / "run")
    finally:
        sys.argv = argv


def test_run_folder_holds_everything(run: Path, root: Path) -> None:
    config = OmegaConf.load(run / "config.yaml")
    assert config.data.root == str(root)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["image/auroc"] == 1
    assert 0.9 < metrics["pixel/auroc"] <= 1
    predictions = rows(run / "predictions.csv")
    assert [row["label"] for row in predictions] == ["0", "0", "1", "1"]
    assert [row["defect"] for row in predictions] == ["good", "good", "spot", "spot"]
    assert min(float(r["score"]) for r in predictions[2:]) > float(predictions[0]["score"])
    assert load_checkpoint(run).model.reduction.config["d"] == 20
    logged = rows(run / "csv" / "metrics.csv")[-1]
    assert float(logged["pixel/pro"]) == pytest.approx(metrics["pixel/pro"])
    names = sorted(path.name for path in (run / "pictures").iterdir())
    assert (
        names
        == [
            *("best_01_spot_001.png", "best_02_spot_000.png", "overview.png"),
            *("worst_01_good_000.png", "worst_02_good_001.png"),
        ]
        or len(names) == 5
    )


def test_closing_lines(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(root, tmp_path / "run", "pictures=0")
    printed = capsys.readouterr()
    assert "widget" in printed.out
    assert "PRO" in printed.out
    assert "Fitted on 6 images in" in printed.err
    assert f"Written to {tmp_path / 'run'}" in printed.err
    assert not (tmp_path / "run" / "pictures").exists()
    assert not (tmp_path / "run" / "gallery").exists()


def test_evaluate_repeats_the_fit_s_metrics(run: Path, tmp_path: Path) -> None:
    main(["evaluate", str(run), "trainer=cpu", f"hydra.run.dir={tmp_path}"])
    found, expected = (json.loads((f / "metrics.json").read_text()) for f in (tmp_path, run))
    assert without_times(found) == without_times(expected)


def test_evaluate_on_other_data(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    mvtec_tree(other)
    main(["evaluate", str(run), f"data.root={other}", f"hydra.run.dir={tmp_path / 'run'}"])
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    assert (config.data.root, config.preprocessing.resize) == (str(other), 64)
    assert str(other) in rows(tmp_path / "run" / "predictions.csv")[0]["path"]


def test_evaluate_refuses_images_of_another_size(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(
        capsys, ["evaluate", str(run), "preprocessing.resize=32", f"hydra.run.dir={tmp_path}"]
    )
    assert (
        "fitted on images of (64, 64), preprocessing.resize and preprocessing.crop give (32, 32)"
        in said
    )


def test_predict_scores_as_evaluate_does(run: Path, root: Path, tmp_path: Path) -> None:
    images = root / "widget" / "test" / "spot"
    main(
        [
            "predict",
            str(run),
            str(images),
            "--raw",
            "loading.num_workers=0",
            f"hydra.run.dir={tmp_path}",
        ]
    )
    expected = {r["path"]: float(r["score"]) for r in rows(run / "predictions.csv")}
    found = {r["path"]: float(r["score"]) for r in rows(tmp_path / "scores.csv")}
    assert list(found) == [str(images / "000.png"), str(images / "001.png")]
    assert found == pytest.approx({path: expected[path] for path in found}, rel=1e-5)
    raw = np.load(tmp_path / "maps" / "00000_000.npy")
    assert raw.shape == (64, 64)
    assert raw.max() == pytest.approx(found[str(images / "000.png")])
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_predict_needs_to_know_how_images_were_prepared(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(run / "model.ckpt", weights_only=True)
    content["hyper_parameters"]["data"] = {}
    torch.save(content, tmp_path / "bare.ckpt")
    arguments = [str(tmp_path / "bare.ckpt"), "x.png", f"hydra.run.dir={tmp_path / 'run'}"]
    assert "does not say how its images were prepared" in failure(capsys, ["predict", *arguments])


def test_predict_takes_names_of_any_kind(run: Path, root: Path, tmp_path: Path) -> None:
    source = root / "widget" / "test" / "good" / "000.png"
    names = ["it's a, [strange] näme=1.png", "写真.PNG"]
    for name in names:
        (tmp_path / name).write_bytes(source.read_bytes())
    paths = [str(tmp_path / name) for name in names]
    main(
        ["predict", str(run), *paths, "loading.num_workers=0", f"hydra.run.dir={tmp_path / 'run'}"]
    )
    assert [row["path"] for row in rows(tmp_path / "run" / "scores.csv")] == paths


def test_sweep_writes_a_run_a_job(root: Path, tmp_path: Path) -> None:
    sweep = f"hydra.sweep.dir={tmp_path}"
    main(["fit", "-m", *SMALL, f"data.root={root}", "reduction.d=5,10", "pictures=0", sweep])
    saved = [OmegaConf.load(tmp_path / job / "config.yaml").reduction.d for job in "01"]
    assert saved == [5, 10]
    assert all((tmp_path / job / "metrics.json").is_file() for job in "01")


def test_no_test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mvtec_tree(tmp_path / "data")
    (folder / "test").rename(tmp_path / "set aside")
    run = fit(tmp_path / "data", tmp_path / "run")
    assert (run / "model.ckpt").is_file()
    assert json.loads((run / "metrics.json").read_text()) == {}
    assert "no test images: the model is fitted and not evaluated" in capsys.readouterr().err


def test_no_defect_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = mvtec_tree(tmp_path / "data")
    (folder / "test" / "spot").rename(tmp_path / "set aside")
    run = fit(tmp_path / "data", tmp_path / "run")
    judged = {*(f"threshold/{name}" for name in ("false_alarm_rate", "image", "pixel"))}
    judged.add("verdict/false_alarm_rate")
    assert set(json.loads((run / "metrics.json").read_text())) == COSTS | judged
    assert len(rows(run / "predictions.csv")) == 2
    assert "no metric is defined" in capsys.readouterr().err


def test_images_of_different_sizes_are_resized(tmp_path: Path) -> None:
    folder = mvtec_tree(tmp_path / "data")
    for i, path in enumerate(sorted((folder / "train" / "good").iterdir())):
        Image.open(path).resize((40 + 10 * i, 90)).save(path)
    assert (fit(tmp_path / "data", tmp_path / "run") / "metrics.json").is_file()


def test_interrupt_stops_cleanly(
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def press_ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LitPaDiM, "training_step", press_ctrl_c)
    with pytest.raises(SystemExit) as stop:
        fit(root, tmp_path / "run")
    assert stop.value.code == INTERRUPTED
    printed = capsys.readouterr()
    assert "Stopped by Ctrl-C." in printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "run" / "model.ckpt").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("redution.d=3", "no key 'redution.d'; did you mean reduction.d"),
        ("reduction=none", "reduction as chosen has no key 'd': leave reduction.d out"),
        ("reduction=randm", "Could not find 'reduction/randm'"),
        ("reduction.d=5000", "reduction.d is 5000, but the layers have"),
        ("reduction.d=many", "reduction.d must be a whole number of at least 1, such as 100"),
        ("backbone.layers=[layer9]", "test_resnet has no layer 'layer9'"),
        (
            "map.resize=cubic",
            "choose one of bicubic, bilinear, nearest (in the configuration: map)",
        ),
        ("gaussian.eps=0", "gaussian.eps must be a number above 0, such as 0.01, got 0"),
        ("preprocessing.crop=65", "crop 65 x 65 px is larger than resize 64 x 64 px"),
        ("data.category=wigdet", "no category 'wigdet' (did you mean 'widget'?)"),
        ("data.root=/nowhere/at/all", "/nowhere/at/all: no such folder"),
        ("backbone.weights=no.pth", "backbone.weights=no.pth is neither hub, package or random"),
        ("backbone.weights=package", "no package carries weights of test_resnet"),
        ("backbone.name=resnet99", "timm has no model named 'resnet99'; did you mean"),
    ],
)
def test_mistakes_in_the_configuration(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    run = [f"data.root={root}", f"hydra.run.dir={tmp_path / 'run'}"]
    assert message in failure(capsys, ["fit", *SMALL, *run, override])


def test_unwritable_run_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    run = [f"data.root={root}", f"hydra.run.dir={tmp_path / 'file' / 'run'}"]
    said = failure(capsys, ["fit", *SMALL, *run])
    assert "Not a directory" in said
    assert str(tmp_path / "file") in said
    assert "another folder for the run is named with hydra.run.dir=FOLDER" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"not an image\n", "not an image"), (None, "truncated")],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_broken_training_image(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    message: str,
    workers: int,
) -> None:
    folder = mvtec_tree(tmp_path / "data")
    broken = folder / "train" / "good" / "003.png"
    broken.write_bytes(broken.read_bytes()[:2000] if content is None else content)
    run = [f"data.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    said = failure(capsys, ["fit", *SMALL, *run, f"loading.num_workers={workers}"])
    assert f"Error: {broken}" in said
    assert message in said


def test_broken_test_image_leaves_the_fitted_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = mvtec_tree(tmp_path / "data")
    broken = folder / "test" / "spot" / "000.png"
    broken.write_bytes(broken.read_bytes()[:2000])  # a broken header is found before the fit
    run = [f"data.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}"]
    said = failure(capsys, ["fit", *SMALL, *run])
    assert "spot/000.png" in said
    assert load_checkpoint(tmp_path / "run").model.gaussian.fitted
