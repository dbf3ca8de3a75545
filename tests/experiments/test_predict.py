"""padim predict on images: verdicts, regions, files that cannot be read, and what is written."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.cli import main
from experiments.drawing.pictures import ColouredByStart
from experiments.predict import LISTED
from padim import Calibration, LitPaDiM, load_checkpoint
from predicting import RATE, calibration, column, load_with, predict
from runs import failure, rows


def skipped(out: Path) -> dict[str, str]:
    """Reasons by the name of the file."""
    return {Path(row["path"]).name: row["reason"] for row in rows(out / "skipped.csv")}


def boxes(out: Path, name: str) -> np.ndarray:
    """Top, left, bottom, right of the regions of an image, (N, 4)."""
    found = [row for row in rows(out / "regions.csv") if Path(row["path"]).name == name]
    sides = ("top", "left", "bottom", "right")
    return np.array([[int(row[side]) for side in sides] for row in found])


PHOTO = (3648, 5472)
"""(H, W): 20 megapixels."""

BROKEN = {
    "cut off.png": "cannot be read as an image: image file is truncated",
    "empty.png": "the file is empty (0 bytes)",
    "not an image.jpg": "not an image",
}


def mixed_folder(folder: Path, widget: Path) -> Path:
    """Images, one large, beside all that is none."""
    deep = folder / "Prüfung 1, links" / "näher — 写真"
    deep.mkdir(parents=True)
    good = (widget / "test" / "good" / "000.png").read_bytes()
    (deep / "Größe eins.png").write_bytes(good)
    (folder / "cut off.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").touch()
    (folder / "not an image.jpg").write_text("nothing to see")
    (folder / "gone.png").symlink_to(folder / "nowhere")
    for name in ("notes.txt", ".hidden", "Thumbs.db", ".folder/x.txt", "._small.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("nothing to see")
    with Image.open(widget / "test" / "spot" / "000.png") as small:
        small.save(folder / "small.png")
        small.resize(PHOTO[::-1], Image.Resampling.NEAREST).save(folder / "photo.jpg", quality=95)
    return folder


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize(("workers", "strict"), [(0, False), (2, True)])
def test_a_folder_with_all_that_can_be_wrong(
    run: Path,
    widget: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    workers: int,
    strict: bool,
) -> None:
    folder, out = mixed_folder(tmp_path / "neue Bilder", widget), tmp_path / "out"
    options = [
        f"loading.num_workers={workers}",
        "loading.batch_size=1",
        *(["--strict"] if strict else []),
    ]
    arguments = ["trainer=cpu", *options, f"hydra.run.dir={out}"]
    if strict:
        said = failure(capsys, ["predict", str(run), str(folder), *arguments])
        assert f"Error: {folder / 'gone.png'}: no file, or a link to none" in said
        assert "(and 3 more, see skipped.csv)" in said
    else:
        main(["predict", str(run), str(folder), *arguments])  # a status other than 0 would raise
        said = capsys.readouterr().err
    verdicts = {"Größe eins.png": "normal", "photo.jpg": "anomalous", "small.png": "anomalous"}
    assert column(out, "verdict") == verdicts
    reasons = skipped(out)
    assert reasons.pop("notes.txt") == "neither image nor video by its name"
    assert reasons.pop("._small.png") == reasons.pop(".folder") == "hidden or the system's"
    assert reasons.pop("gone.png") == "no file, or a link to none"
    assert list(reasons) == list(BROKEN)
    assert "1 neither image nor video by its name (neue Bilder/notes.txt)" in said
    assert "2 hidden or the system's (" in said
    for name, reason in BROKEN.items():
        assert reasons[name].startswith(reason)
        assert f"  {folder / name}: {reasons[name]}\n" in said
    assert len(list((out / "pictures").iterdir())) == 3
    # The photo is the small image 57 times as high and 85.5 times as wide, so its regions are, too.
    scale = np.array([PHOTO[0] / 64, PHOTO[1] / 64] * 2)
    np.testing.assert_allclose(boxes(out, "photo.jpg") / scale, boxes(out, "small.png"), atol=1.5)
    top, left, bottom, right = boxes(out, "small.png")[0]  # of what is at 20, 24, 36, 40
    assert (top + bottom) / 2 == pytest.approx(28, abs=4)
    assert (left + right) / 2 == pytest.approx(32, abs=4)


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_regions_are_in_pixels_of_the_image_as_it_is_seen(
    run: Path, widget: Path, tmp_path: Path, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    with Image.open(widget / "test" / "spot" / "000.png") as spot:
        seen = spot.resize((300, 200))
        seen.save(tmp_path / f"seen{suffix}")
        stored = seen.transpose(Image.Transpose.ROTATE_90)
        stored.save(tmp_path / f"turned{suffix}", exif=exif)
    assert predict(run, tmp_path / "out", tmp_path, "pictures=false") == 0
    found = boxes(tmp_path / "out", f"turned{suffix}")
    assert len(found)
    assert np.array_equal(found, boxes(tmp_path / "out", f"seen{suffix}"))


@pytest.mark.usefixtures("calibrated")
def test_verdicts_follow_from_the_calibration(run: Path, widget: Path, tmp_path: Path) -> None:
    assert predict(run, tmp_path, widget / "test", "pictures=false") == 0
    scores = torch.tensor([float(row["score"]) for row in rows(tmp_path / "scores.csv")])
    expected = calibration().p_value(scores).tolist()
    found = rows(tmp_path / "scores.csv")
    assert [float(row["p_value"]) for row in found] == pytest.approx(expected)
    assert [row["verdict"] for row in found] == ["normal"] * 2 + ["anomalous"] * 2
    assert [row["verdict"] == "anomalous" for row in found] == [p <= RATE for p in expected]


@pytest.mark.usefixtures("calibrated")
def test_another_rate(
    run: Path, widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [widget / "test", "pictures=false"]
    assert predict(run, tmp_path, *images, "threshold.false_alarm_rate=0.875") == 0
    assert set(column(tmp_path, "verdict").values()) == {"anomalous"}
    assert predict(run, tmp_path / "b", *images, "threshold.false_alarm_rate=0.1") == 1
    assert "0.1 cannot be promised from 7 normal images" in capsys.readouterr().err
    assert predict(run, tmp_path / "c", *images, "threshold.score=high") == 1
    assert "threshold.score must be a number, such as 450, or null" in capsys.readouterr().err
    assert predict(run, tmp_path / "d", *images, "threshold=450") == 1
    assert "did you mean threshold.score=450?" in capsys.readouterr().err
    assert predict(run, tmp_path / "e", *images, "threshold=0.02") == 1
    assert "did you mean threshold.false_alarm_rate=0.02?" in capsys.readouterr().err


@pytest.mark.parametrize("made", [calibration(), None])
def test_a_threshold_given_by_hand(
    run: Path,
    widget: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: Calibration | None,
) -> None:
    load_with(monkeypatch, made)
    assert predict(run, tmp_path, widget / "test", "--raw", "threshold.score=0.6") == 0
    found = rows(tmp_path / "scores.csv")
    assert [row["verdict"] for row in found] == ["normal"] * 2 + ["anomalous"] * 2
    assert all(row["p_value"] for row in found) == (made is not None)
    assert [row["regions"] for row in found] == ["0", "0", "1", "1"]
    regions = rows(tmp_path / "regions.csv")
    assert [row["peak"] for row in regions] == [row["score"] for row in found[2:]]
    for region, name in zip(regions, ("00002_000", "00003_001"), strict=True):
        above = np.argwhere(np.load(tmp_path / "maps" / f"{name}.npy") >= 0.6)  # (N, 2)
        assert float(region["area"]) == len(above)
        box = [int(region[side]) for side in ("top", "left", "bottom", "right")]
        assert box == [*above.min(axis=0), *(above.max(axis=0) + 1)]
    written = json.loads((tmp_path / "predictions.json").read_text())
    assert (written["threshold"], written["pixel_threshold"]) == (0.6, 0.6)
    assert written["false_alarm_rate"] is None


@pytest.mark.usefixtures("calibrated")
def test_json_says_the_same_as_the_tables(run: Path, widget: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    out = tmp_path / "out"
    images = [widget / "test", tmp_path / "*.png", "loading.batch_size=3", "pictures=false"]
    assert predict(run, out, *images) == 0
    written = json.loads((out / "predictions.json").read_text())
    assert written["model"] == str(run)
    assert written["threshold"] == pytest.approx(0.35, abs=1e-6)
    assert written["pixel_threshold"] == pytest.approx(0.42, abs=1e-6)
    assert written["extent_threshold"] == pytest.approx(0.3)
    assert written["false_alarm_rate"] == RATE
    assert [list(map(str, row.values())) for row in written["skipped"]] == [
        list(row.values()) for row in rows(out / "skipped.csv")
    ]
    assert {tuple(entry["size"]) for entry in written["predictions"]} == {(64, 64)}
    for entry, row in zip(written["predictions"], rows(out / "scores.csv"), strict=True):
        assert {**entry, "regions": len(entry["regions"])} | row == {
            "size": entry["size"],
            **{key: str(entry[key]) for key in ("path", "score", "p_value", "verdict")},
            "regions": str(len(entry["regions"])),
        }
    flat = [
        {"path": entry["path"], "region": number, **region}
        for entry in written["predictions"]
        for number, region in enumerate(entry["regions"], 1)
    ]
    assert [{k: str(v) for k, v in region.items()} for region in flat] == rows(out / "regions.csv")


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
@pytest.mark.parametrize("workers", [0, 2])
def test_all_pages(run: Path, widget: Path, tmp_path: Path, suffix: str, workers: int) -> None:
    images = [Image.open(path).convert("RGB") for path in sorted(widget.glob("test/*/*.png"))]
    many, single = tmp_path / f"many{suffix}", tmp_path / "single.png"
    images[0].save(many, save_all=True, append_images=images[1:], lossless=True)
    images[0].save(single)
    given = (run, tmp_path / "out", many, single)
    assert predict(*given, "pages=true", f"loading.num_workers={workers}") == 0
    scores = column(tmp_path / "out", "score")
    assert list(scores) == [*(f"many{suffix}#{n}" for n in range(len(images))), "single.png"]
    assert scores["single.png"] == scores[f"many{suffix}#0"]
    assert len(set(scores.values())) == len(images)
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == len(images) + 1
    assert predict(run, tmp_path / "first", many) == 0
    assert column(tmp_path / "first", "score") == {f"many{suffix}": scores["single.png"]}


@pytest.mark.usefixtures("uncalibrated")
def test_without_calibration_there_are_scores_alone(
    run: Path, widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(run, tmp_path, widget / "test") == 0
    assert (
        "Scores without verdicts: the model is not calibrated; fit it again"
        in capsys.readouterr().err
    )
    for row in rows(tmp_path / "scores.csv"):
        assert float(row["score"]) > 0
        assert (row["p_value"], row["verdict"], row["regions"]) == ("", "", "")
    assert not (tmp_path / "regions.csv").exists()
    assert len(list((tmp_path / "pictures").iterdir())) == 4
    assert predict(run, tmp_path / "b", widget / "test", "--fail-on-anomaly") == 1
    assert predict(run, tmp_path / "c", widget / "test", "threshold.false_alarm_rate=0.1") == 1
    said = capsys.readouterr().err
    assert "Error: fail_on_anomaly needs a threshold: the model is not calibrated" in said
    assert "Error: threshold.false_alarm_rate=0.1: the model is not calibrated" in said
    assert not {*(tmp_path / "b").glob("*.csv"), *(tmp_path / "c").glob("*.csv")}


@pytest.mark.usefixtures("calibrated")
@pytest.mark.parametrize(
    ("images", "options", "status"),
    [
        ("test", ["--fail-on-anomaly"], 3),
        ("test/good", ["--fail-on-anomaly"], 0),
        ("test", ["--fail-on-anomaly", "--strict"], 1),
    ],
)
def test_exit_status(
    run: Path, widget: Path, tmp_path: Path, images: str, options: list[str], status: int
) -> None:
    (tmp_path / "empty.png").touch()
    paths = [widget / images, tmp_path / "empty.png"]
    assert predict(run, tmp_path / "out", *paths, *options, "pictures=false") == status
    assert skipped(tmp_path / "out") == {"empty.png": "the file is empty (0 bytes)"}


@pytest.mark.parametrize(("count", "more"), [(1, ""), (3, " (and 2 more, see skipped.csv)")])
def test_nothing_can_be_read(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, more: str
) -> None:
    for i in range(count):
        (tmp_path / f"{i}.png").touch()
    assert predict(run, tmp_path / "out", tmp_path / "*.png") == 1
    expected = f"Error: {tmp_path / '0.png'}: the file is empty (0 bytes){more}\n"
    assert capsys.readouterr().err.endswith(expected)
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["predictions"] == []


def test_many_skipped_files_are_not_all_told(
    run: Path, widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(LISTED + 5):
        (tmp_path / f"{i}.png").touch()
    assert predict(run, tmp_path / "out", tmp_path / "*.png", widget / "test/good/000.png") == 0
    said = capsys.readouterr().err
    assert f"{LISTED + 5} cannot be read:" in said
    assert said.count("is empty") == LISTED
    assert "... and those in skipped.csv" in said
    assert len(skipped(tmp_path / "out")) == LISTED + 5


@pytest.mark.usefixtures("calibrated")
def test_pictures_of_different_runs_compare(run: Path, widget: Path, tmp_path: Path) -> None:
    """One scale, whatever else is predicted; and the contour of what reaches the threshold."""
    predict(run, tmp_path / "a", widget / "test" / "good" / "000.png")
    predict(run, tmp_path / "b", widget / "test", "--raw")
    name = "00000_000.png"
    alone, together = (np.asarray(Image.open(tmp_path / r / "pictures" / name)) for r in "ab")
    np.testing.assert_array_equal(alone, together)
    spotted = np.asarray(Image.open(tmp_path / "b" / "pictures" / "00002_000.png"))
    contour = (spotted == (64, 224, 255)).all(axis=2).any(axis=0).nonzero()[0]
    start = 8 + 64 + 8 + 64 + 8  # of the third part of the row
    _, left, _, right = boxes(tmp_path / "b", "000.png")[0]
    assert abs(contour.min() - start - left) <= 1
    assert abs(contour.max() + 1 - start - right) <= 1
    assert not (alone == (64, 224, 255)).all(axis=2).any()


def test_a_model_that_does_not_say_how_images_were_prepared(
    run: Path,
    widget: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert predict(run, tmp_path / "a", widget / "test", "pictures=false") == 0

    def load(path: str) -> LitPaDiM:
        module = load_checkpoint(path)
        module.hparams["data"] = {}
        return module

    monkeypatch.setattr("experiments.predict.load_checkpoint", load)
    arguments = [widget / "test", "pictures=false"]
    assert predict(run, tmp_path / "b", *arguments) == 1
    assert "does not say how its images were prepared" in capsys.readouterr().err
    arguments.append("preprocessing=whole")
    assert predict(run, tmp_path / "c", *arguments) == 1
    said = capsys.readouterr().err
    assert "fitted on images of (64, 64), preprocessing gives (256, 256)" in said
    assert predict(run, tmp_path / "d", *arguments, "preprocessing.resize=64") == 0
    assert column(tmp_path / "d", "score") == column(tmp_path / "a", "score")


@pytest.mark.usefixtures("uncalibrated")
def test_pictures_are_drawn_as_they_come_once_the_first_have_set_the_colours(
    run: Path, widget: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.drawing.pictures.CALIBRATION", 2)
    waiting: list[int] = []
    add = ColouredByStart.add

    def count(self: ColouredByStart, *arguments: object) -> None:
        add(self, *arguments)
        waiting.append(len(self._waiting))

    monkeypatch.setattr(ColouredByStart, "add", count)
    assert predict(run, tmp_path, widget / "test", "loading.batch_size=1") == 0
    assert waiting == [1, 0, 0, 0]
    assert len(list((tmp_path / "pictures").iterdir())) == 4


def test_sigterm_ends_the_files(run: Path, widget: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3000):
        (images / f"{i:04}.png").symlink_to(widget / "test" / "good" / "000.png")
    out = tmp_path / "out"
    options = ["trainer=cpu", "loading.batch_size=1", "loading.num_workers=2", "pictures=false"]
    command = ["-m", "experiments.cli", "predict", str(run), str(images), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, *command, f"hydra.run.dir={out}"],
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
    )
    try:
        while process.poll() is None and not (out / "scores.csv").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143, said
    assert "Traceback" not in said
    written = json.loads((out / "predictions.json").read_text())["predictions"]
    assert 0 < len(written) < 3000


def test_a_name_that_no_encoding_has(run: Path, widget: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"gr\xfc\xdfe.png")  # Latin-1, as from an old archive
    try:
        path.write_bytes((widget / "test" / "good" / "000.png").read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    assert predict(run, tmp_path / "out", tmp_path / "*.png") == 0
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [str(path)]
    written = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["path"] for entry in written["predictions"]] == [str(path)]
