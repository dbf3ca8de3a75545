"""padim export, and the example that runs the file without this project."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from datamodules import Preprocessing, read_image
from experiments.cli import main
from padim import load_checkpoint
from runs import SMALL, failure, rows
from trees import mvtec_tree

EXAMPLE = Path(__file__).parents[2] / "docs" / "onnx_example.py"

KEYS = ("resize", "crop", "resize_mode", "roi", "bits")

PREPARATIONS: list[dict[str, Any]] = [
    dict(zip(KEYS, values, strict=True))
    for values in (
        (70, [48, 64], "stretch", None, 16),
        ([72, 64], [48, 64], "letterbox", None, 12),
        ([48, 64], None, "shorter_side", [10, 0, 90, 75], None),
        (None, [48, 64], "stretch", [0, 3, 70, 80], 10),
    )
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root, size=100)
    return root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    options = [f"preprocessing.{key}={json.dumps(value)}" for key, value in PREPARATIONS[0].items()]
    # Smooth maps: Pillow and torchvision round a few pixels differently.
    options += ["threshold.false_alarm_rate=0.2", "pictures=0", "map.sigma=4"]
    argv = sys.argv
    try:
        main(["fit", *SMALL, f"data.root={root}", f"hydra.run.dir={run}", *options])
        main(["export", str(run)])
    finally:
        sys.argv = argv
    return run


@pytest.fixture
def photos(root: Path, tmp_path: Path) -> list[Path]:
    """Images of several sizes: a normal one, one turned by its EXIF orientation, one of 16 bits."""
    rng = np.random.default_rng(1)
    paths = [root / "widget" / "test" / "good" / "000.png"]
    for i, (height, width) in enumerate([(90, 160), (301, 233)]):
        pixels = rng.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
        image = Image.fromarray(pixels).resize((width, height))
        exif = Image.Exif()
        if i == 1:
            exif[0x0112] = 6
        paths.append(tmp_path / f"photo {i}.png")
        image.save(paths[-1], exif=exif)
    paths.append(tmp_path / "deep.png")
    Image.fromarray(np.linspace(0, 4095, 90 * 120).reshape(90, 120).astype(np.uint16)).save(
        paths[-1]
    )
    return paths


def run_example(model: Path, photos: list[Path]) -> list[dict[str, Any]]:
    command = [sys.executable, str(EXAMPLE), str(model), *map(str, photos)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_example_gives_what_predict_gives(run: Path, photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "predicted"
    main(["predict", str(run), *map(str, photos), f"hydra.run.dir={out}", "pictures=false"])
    predicted = rows(out / "scores.csv")
    assert {row["verdict"] for row in predicted} == {"normal", "anomalous"}
    for row, found in zip(predicted, run_example(run / "model.onnx", photos), strict=True):
        assert found["path"] == row["path"]
        assert found["score"] == pytest.approx(float(row["score"]), rel=1e-3)
        assert found["p_value"] == pytest.approx(float(row["p_value"]))
        assert found["verdict"] == (row["verdict"] == "anomalous")


@pytest.mark.parametrize("prepared", PREPARATIONS[1:])
def test_example_prepares_images_as_the_fit_did(
    run: Path, photos: list[Path], tmp_path: Path, prepared: dict[str, Any]
) -> None:
    file = onnx.load(run / "model.onnx")
    about = json.loads(file.metadata_props[0].value)
    assert about["preparation"].keys() == prepared.keys() | {"padding"}
    about["preparation"] |= prepared
    file.metadata_props[0].value = json.dumps(about)
    onnx.save(file, tmp_path / "model.onnx")
    preprocessing = Preprocessing(**prepared)
    images = torch.stack(
        [preprocessing.image(read_image(path, prepared["bits"])) for path in photos]
    )
    expected = load_checkpoint(run)(images).scores
    found = run_example(tmp_path / "model.onnx", photos)
    assert [f["score"] for f in found] == pytest.approx(expected.tolist(), rel=1e-3)


def test_what_is_written_is_logged_and_metadata_has_the_thresholds(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "line 3.pt2"
    main(["export", str(run / "model.ckpt"), "format=torch", "threshold.score=4", f"out={out}"])
    printed = capsys.readouterr().err
    assert f"Written to {out} (0." in printed
    assert "Anomalous is what scores 4 or more" in printed
    extra = {"padim": ""}
    torch.export.load(out, extra_files=extra)
    about = json.loads(extra["padim"])
    assert (about["threshold"], about["pixel_threshold"]) == (4, 4)
    assert about["false_alarm_rate"] is about["threshold_source"] is None
    assert about["preparation"] == {**PREPARATIONS[0], "padding": [124, 116, 104]}


def test_a_file_that_differs_is_not_written(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments.export.difference", lambda *_: float("nan"))
    before = tmp_path / "model.pt2"
    before.write_text("of yesterday")
    command = ["export", str(run), "format=torch", f"out={before}"]
    assert "differs from PyTorch by nan of the mean" in failure(capsys, command)
    assert before.read_text() == "of yesterday"
    assert list(tmp_path.iterdir()) == [before]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["format=tflite"], "format is 'tflite'; choose one of onnx, torch"),
        (["out=model.xml"], "format=onnx is written to *.onnx, not to model.xml"),
        (["out=setup/"], "format=onnx is written to *.onnx, not to setup"),
        (["pixels=int8"], "pixels is 'int8'; choose one of uint8, float"),
        (["threshold.false_alarm_rate=0.01"], "cannot be promised from 6 normal images"),
    ],
)
def test_errors_are_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in failure(capsys, ["export", str(run), *options])


def test_missing_package_names_the_extra(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'padim-lightning[export]'" in failure(capsys, ["export", str(run)])


def test_damaged_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"PK")
    assert "is truncated or no checkpoint" in failure(capsys, ["export", str(tmp_path)])
