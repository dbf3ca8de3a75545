"""Folders of images from the command line: fit, evaluate and predict."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from datamodules import Folder, Loading, Preprocessing
from experiments.cli import main
from experiments.tables.results import read_results
from padim import load_checkpoint, place_in_original
from runs import SMALL, failure, rows
from trees import mvtec_tree

TINY = ["data=folder", *(option for option in SMALL if "category" not in option)]


def fit(*options: str) -> None:
    main(["fit", *TINY, *options])


def metrics(folder: Path) -> dict[str, float]:
    """All but what depends on the clock."""
    found = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.endswith("_s")}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good/, bad/spot/ and masks/spot/, of wide images with bright squares as defects."""
    made = mvtec_tree(tmp_path_factory.mktemp("data"), train=10)
    parts = made.parent
    for source, target in (("train/good", "good"), ("test", "bad"), ("ground_truth", "masks")):
        (made / source).rename(parts / target)
    for path in (parts / "bad/good").iterdir():
        path.rename(parts / "good" / f"more_{path.name}")
    (parts / "bad/good").rmdir()
    for path in parts.rglob("*.png"):
        Image.open(path).resize((90, 60), Image.Resampling.NEAREST).save(path)
    return parts


@pytest.fixture(scope="module")
def run(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A letterboxed model, fitted with paths relative to where the images are."""
    argv, folder = sys.argv, tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(parts)
        fit(
            *("data.normal=good/", "data.abnormal=bad/", "data.masks=masks", "data.name=nut"),
            *("preprocessing.resize_mode=letterbox", f"hydra.run.dir={folder}"),
        )
    sys.argv = argv
    return folder


def test_made_defects_are_measured_where_there_is_no_other(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = [f"data.normal={parts / 'good'}", "select=true", f"hydra.run.dir={folder}"]
    fit(*run, "objective=select/pro")
    assert list(metrics(folder)) == ["select/pro"]
    assert 0 < metrics(folder)["select/pro"] < 1
    assert (folder / "model.ckpt").is_file()


def test_a_fit_from_folders(run: Path) -> None:
    found = metrics(run)
    assert found["image/auroc"] == 1
    assert 0.9 < found["pixel/auroc"] <= 1
    predictions = rows(run / "predictions.csv")
    assert [row["defect"] for row in predictions] == ["spot", "spot", "good", "good"]
    assert pd.read_csv(run / "table.csv")["row"].tolist()[0] == "nut"
    data = load_checkpoint(run).hparams["data"]
    assert all(Path(data[key]).is_absolute() for key in ("normal", "abnormal", "masks"))
    assert data["normal_test"] is None
    with Image.open(next((run / "pictures").glob("best_01*.png"))) as picture:
        assert picture.height < 64 + 50  # without the padding, of which a third would consist


def test_evaluate_finds_the_same_images_from_anywhere(run: Path, tmp_path: Path) -> None:
    main(["evaluate", str(run), "trainer=cpu", "pictures=0", f"hydra.run.dir={tmp_path}"])
    assert metrics(tmp_path) == pytest.approx(metrics(run))
    found, expected = rows(tmp_path / "predictions.csv"), rows(run / "predictions.csv")
    assert [Path(row["path"]).name for row in found] == [Path(row["path"]).name for row in expected]


def test_evaluate_on_other_images(run: Path, parts: Path, tmp_path: Path) -> None:
    other = [f"data.normal_test={parts}/good/more_*.png", "preprocessing.resolution=original"]
    small = ["trainer=cpu", "pictures=2", f"hydra.run.dir={tmp_path}"]
    main(["evaluate", str(run), *other, *small])
    predictions = rows(tmp_path / "predictions.csv")
    assert [Path(row["path"]).stem for row in predictions if row["label"] == "0"] == [
        *("more_000", "more_001")
    ]
    assert metrics(tmp_path)["pixel/auroc"] == pytest.approx(metrics(run)["pixel/auroc"], abs=0.02)


def test_evaluate_without_masks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["trainer=cpu", "pictures=4", f"hydra.run.dir={tmp_path}"]
    main(["evaluate", str(run), "data.masks=null", *small])
    assert metrics(tmp_path)["image/auroc"] == 1
    assert not [name for name in metrics(tmp_path) if name.startswith("pixel")]
    assert "No mask marks an anomalous pixel" in capsys.readouterr().err
    assert (tmp_path / "pictures" / "overview.png").is_file()


def test_predict_prepares_images_as_the_fit_did(run: Path, parts: Path, tmp_path: Path) -> None:
    arguments = [str(parts / "bad"), "loading.num_workers=0", f"hydra.run.dir={tmp_path}"]
    main(["predict", str(run), *arguments])
    expected = {
        Path(row["path"]).name: float(row["score"])
        for row in rows(run / "predictions.csv")
        if row["label"] == "1"
    }
    found = {Path(row["path"]).name: float(row["score"]) for row in rows(tmp_path / "scores.csv")}
    assert found == pytest.approx(expected, rel=1e-5)


def test_normal_images_alone(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(
        f"data.normal={parts}/good",
        f"hydra.run.dir={tmp_path}",
        "preprocessing.resize_mode=shorter_side",
    )
    said = capsys.readouterr().err
    assert "Fitted on 12 images" in said
    assert "no test images: the model is fitted and not evaluated" in said
    main(["predict", str(tmp_path), f"{parts}/bad", f"hydra.run.dir={tmp_path / 'predicted'}"])
    assert len(rows(tmp_path / "predicted" / "scores.csv")) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"resize": 64, "crop": 56},
        {"resize": [48, 96], "crop": [40, 84]},
        {"resize": 64, "crop": None, "resize_mode": "letterbox"},
        {"resize": [64, 48], "crop": [56, 48], "resize_mode": "letterbox"},
        {"resize": 64, "crop": None, "resize_mode": "shorter_side"},
        {"resize": 64, "crop": [48, 56], "resize_mode": "shorter_side"},
        {"resize": [48, 64], "crop": [40, 64], "roi": [30, 20, 170, 180]},
        {"resize": 64, "crop": None, "resize_mode": "shorter_side", "roi": [30, 20, 170, 180]},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(200, 260), (300, 190)], ids=str)
def test_what_is_found_lies_on_the_defect_in_the_original(
    size: tuple[int, int], options: dict[str, Any]
) -> None:
    defect = torch.zeros(3, *size, dtype=torch.uint8)
    defect[:, 80:120, 90:110] = 255
    prepared = Preprocessing(**options)
    anomaly_map = prepared.image(defect)[0].float()
    found = place_in_original(anomaly_map, prepared.window(*size), size) > 127
    overlap = (found & (defect[0] > 0)).sum() / (found | (defect[0] > 0)).sum()
    assert overlap > 0.85  # a pixel of the prepared image along the outline is 2 to 5 here
    rows, columns = torch.where(found)
    centre = rows.float().mean() + 0.5, columns.float().mean() + 0.5
    assert centre == pytest.approx((100, 100), abs=1)


def test_padding_is_not_measured(parts: Path) -> None:
    data = Folder(
        *(parts / "good", parts / "bad", parts / "masks"),
        preprocessing=Preprocessing(64, None, resize_mode="letterbox"),
        loading=Loading(num_workers=0),
    )
    (batch,) = data.test_dataloader()
    maps = torch.rand(len(batch["path"]), 64, 64)
    for anomaly_map, window, mask in zip(maps, batch["window"], batch["mask"], strict=True):
        assert mask.shape == (43, 64)
        placed = place_in_original(anomaly_map, window, mask.shape)
        torch.testing.assert_close(placed, anomaly_map[10:53])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Error: data.normal is not given: name the folder of normal images"),
        (["data.normal=/nowhere"], "data.normal: /nowhere: no images found; expected a file"),
        (["data.normal=good", "data.abnormal=good"], "is given twice, by data.abnormal and by"),
        (["data.normal=good", "data.held_out=1"], "data.held_out must be a share below 1, such as"),
        (
            ["data.normal=good", "preprocessing.roi=[0,0,60,100]"],
            "reaches beyond the image, 60 x 90 px",
        ),
        (
            ["data.normal=good", "preprocessing.crop=65"],
            "crop 65 x 65 px is larger than resize 64 x 64",
        ),
        (["data.normal=good", "data.category=nut"], "data as chosen has no key 'category'"),
    ],
)
def test_mistakes(
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(parts)
    assert message in failure(capsys, ["fit", *TINY, *options, f"hydra.run.dir={tmp_path}"])


def test_names_that_no_encoding_has_and_ones_that_are_long(
    run: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange, bad = os.fsdecode(b"m\xffller"), tmp_path / "bad"
    normal = tmp_path / strange
    shutil.copytree(parts / "good", normal)
    for i, name in enumerate((strange, "x" * 246, "\u00fc" * 120)):
        (bad / strange).mkdir(parents=True, exist_ok=True)
        shutil.copy(parts / f"bad/spot/00{i % 2}.png", bad / strange / f"{name}.png")
    fit(f"data.normal='{normal}'", f"data.abnormal={bad}", f"hydra.run.dir={tmp_path / 'run'}")
    main(["report", str(tmp_path / "run")])
    main(["evaluate", str(tmp_path / "run"), "trainer=cpu", f"hydra.run.dir={tmp_path / 'again'}"])
    main(["predict", str(run), str(bad), f"hydra.run.dir={tmp_path / 'predicted'}"])
    printed = capsys.readouterr()
    assert "m\\udcffller" in printed.out
    assert "Pictures are missing" not in printed.err
    for folder in ("run", "again"):
        assert metrics(tmp_path / folder)["image/auroc"] == 1
        with (tmp_path / folder / "predictions.csv").open(errors="surrogateescape") as file:
            paths = [row["path"] for row in csv.DictReader(file) if row["label"] == "1"]
        assert sorted(paths) == sorted(map(str, bad.rglob("*.png")))
        assert len(list((tmp_path / folder / "pictures").glob("*_0*.png"))) == 5
    assert len(list((tmp_path / "predicted" / "pictures").iterdir())) == 3


def test_pictures_of_a_run_are_not_fitted_on(
    parts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(parts / "good")
    for i in (1, 2):
        fit("data.normal=.", "data.held_out=0.2", f"hydra.run.dir=runs/{i}")
    said = capsys.readouterr().err
    assert "data.normal: left out are 2 of a run (runs/2, ...)" in said
    assert said.count("Fitted on 10 images") == 2
    shutil.rmtree("runs")


@pytest.mark.parametrize(("name", "shown"), [(None, "parts"), ("nut", "nut"), (7, "7")])
def test_results_are_read_under_their_name(tmp_path: Path, name: Any, shown: str) -> None:
    data = {"normal": ["parts/good/*.png", "more"], "name": name, "split_seed": 3}
    (tmp_path / "config.yaml").write_text(json.dumps({"data": data}))
    (tmp_path / "metrics.json").write_text("{}")
    (result,) = read_results(tmp_path)
    assert result.category == shown
    assert result.seeds == {"data.split_seed": 3}  # splits are averaged as other seeds are
