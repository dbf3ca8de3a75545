"""padim predict drift=RATE: whether images are still from the distribution of the fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.cli import main
from predicting import predict
from runs import SMALL, failure
from trees import mvtec_tree


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 normal images to fit on, 20 new ones, and 20 that are a little brighter."""
    root = tmp_path_factory.mktemp("parts")
    images = sorted((mvtec_tree(root / "made", train=80) / "train" / "good").iterdir())
    for i, image in enumerate(images):
        folder = root / ("fit" if i < 60 else "new")
        folder.mkdir(exist_ok=True)
        shutil.copy(image, folder)
        if i >= 60:
            brighter = np.asarray(Image.open(image), dtype=float) * 1.15
            (root / "brighter").mkdir(exist_ok=True)
            pixels = brighter.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "brighter" / image.name)
    small = [one for one in SMALL if not one.startswith("data.category")]
    main(["fit", *small, "data=folder", f"data.normal={root}/fit", f"hydra.run.dir={root}/run"])
    return root


def drift(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "drift.json").read_text())
    return found


def test_new_images_and_brighter_ones(parts: Path, tmp_path: Path) -> None:
    options = ["drift=0.1", "fail_on_drift=true", "pictures=false"]
    assert predict(parts / "run", tmp_path / "new", parts / "new", *options) == 0
    found = drift(tmp_path / "new")
    assert found["drift"] is False
    assert found["images"] == 20
    assert found["p"] == pytest.approx(min(1, 3 * min(found["p_values"].values())))
    assert predict(parts / "run", tmp_path / "brighter", parts / "brighter", *options) == 3
    found = drift(tmp_path / "brighter")
    assert found["drift"] is True
    least = 1 / 61  # with 60 normal images
    assert found["p_values"]["whole of the mean"] == pytest.approx(least)
    with Image.open(tmp_path / "brighter" / "drift.png") as picture:
        assert picture.width > 4 * 64


def test_how_images_are_batched_changes_nothing(parts: Path, tmp_path: Path) -> None:
    found = []
    for size in (3, 32):
        out = tmp_path / str(size)
        predict(parts / "run", out, parts / "brighter", "drift=0.1", f"loading.batch_size={size}")
        found.append(drift(out))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (
            "new",
            ["drift=0.01"],
            "takes scores of 299 normal images: the model has 60, from which 0",
        ),
        ("fit", ["drift=0.1"], "60 of these images are images of the fit, or copies"),
        ("new/060.png", ["drift=0.1"], "takes two images or more, got 1"),
        (
            "new",
            ["fail_on_drift=true"],
            "needs the false-alarm rate of its test, such as drift=0.05",
        ),
        ("new", ["drift=2"], "drift must be a number within 0 and 1"),
    ],
)
def test_mistakes(
    parts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    images: str,
    options: list[str],
    message: str,
) -> None:
    arguments = [str(parts / "run"), str(parts / images), *options, f"hydra.run.dir={tmp_path}"]
    assert message in failure(capsys, ["predict", *arguments, "trainer=cpu"])


def test_a_model_without_scores(
    parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], uncalibrated: None
) -> None:
    arguments = [str(parts / "run"), str(parts / "new"), "drift=0.1", f"hydra.run.dir={tmp_path}"]
    assert "drift=0.1: the model is not calibrated" in failure(capsys, ["predict", *arguments])
