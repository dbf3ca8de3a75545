"""Images of a 12-bit camera, in files of 16 bits: every command reads them as the fit did."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.cli import main
from oracle import statistics_error
from padim import load_checkpoint
from predicting import column, predict
from runs import SMALL
from trees import mvtec_tree

TREES = ("grey", "deep")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trees of the same images and two models of them: "grey" 8-bit, "deep" 12 of 16 bits."""
    folder, argv = tmp_path_factory.mktemp("made"), sys.argv
    for name in TREES:
        tree = mvtec_tree(folder / name)
        for path in tree.glob("t*/*/*.png"):
            pixels = np.asarray(Image.open(path).convert("L"))
            if name == "deep":
                pixels = (pixels * (4095 / 255)).round().astype(np.uint16)
            Image.fromarray(pixels).save(path)
        more = [f"data.root={folder / name}", f"hydra.run.dir={folder / name / 'run'}"]
        try:
            main(["fit", *SMALL, "pictures=2", *more])
        finally:
            sys.argv = argv
    return folder


def metrics(run: Path) -> dict[str, float]:
    found = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("cost")}


def test_a_fit_finds_the_bits_and_keeps_them(made: Path) -> None:
    saved = load_checkpoint(made / "deep" / "run").hparams["data"]["preprocessing"]["bits"]
    assert saved == 12
    assert load_checkpoint(made / "grey" / "run").hparams["data"]["preprocessing"]["bits"] == 16
    assert "16-bit images are read by 12 bits" in (made / "deep" / "run" / "fit.log").read_text()
    assert "bits" not in (made / "grey" / "run" / "fit.log").read_text()
    grey, deep = (made / name / "run" for name in TREES)
    assert metrics(deep) == pytest.approx(metrics(grey), abs=1e-5)
    names = [next((run / "gallery").glob("*_image.*")) for run in (grey, deep)]
    assert names[0].read_bytes() == names[1].read_bytes()


def evaluated(made: Path, name: str, out: Path, *more: str) -> dict[str, float]:
    run = str(made / name / "run")
    main(["evaluate", run, "trainer=cpu", "pictures=0", f"hydra.run.dir={out / name}", *more])
    return metrics(out / name)


def test_evaluate(made: Path, tmp_path: Path) -> None:
    assert evaluated(made, "deep", tmp_path) == metrics(made / "deep" / "run")


def test_evaluate_on_other_data(made: Path, tmp_path: Path) -> None:
    whole = [*SMALL[5:], "data=mvtec", f"data.root={made / 'deep'}"]
    assert evaluated(made, "deep", tmp_path, *whole) == metrics(made / "deep" / "run")
    as_stored = evaluated(made, "deep", tmp_path, *whole, "preprocessing.bits=16", "overwrite=true")
    assert as_stored["threshold/image"] == metrics(made / "deep" / "run")["threshold/image"]
    assert as_stored != metrics(made / "deep" / "run")


@pytest.mark.parametrize("more", [[], ["preprocessing=whole", "preprocessing.resize=64"]])
def test_predict(made: Path, tmp_path: Path, more: list[str]) -> None:
    for name in TREES:
        images = made / name / "widget" / "test"
        assert predict(made / name / "run", tmp_path / name, images, "pictures=false", *more) == 0
    grey, deep = (column(tmp_path / name, "score") for name in TREES)
    expected = [float(score) for score in grey.values()]
    assert [float(score) for score in deep.values()] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("command", ["calibrate", "update"])
def test_a_model_made_from_another(made: Path, tmp_path: Path, command: str) -> None:
    modules = []
    for name in TREES:
        widget, out = made / name / "widget", tmp_path / f"{name}.ckpt"
        own = {
            "calibrate": [str(widget / "test" / "good")],
            "update": ["data=folder", f"data.normal={widget / 'test' / 'good'}", *SMALL[6:]],
        }
        main([command, str(made / name / "run"), *own[command], "trainer=cpu", "-o", str(out)])
        modules.append(load_checkpoint(out))
    grey, deep = (module.model for module in modules)
    assert statistics_error(deep.statistics, grey.statistics) < 1e-6
    torch.testing.assert_close(deep.calibration.scores, grey.calibration.scores, rtol=1e-4, atol=0)
    assert modules[1].hparams["data"]["preprocessing"]["bits"] == 12


def test_bits_given_win(made: Path, tmp_path: Path) -> None:
    more = [f"data.root={made / 'deep'}", "pictures=0", f"hydra.run.dir={tmp_path}"]
    main(["fit", *SMALL, *more, "preprocessing.bits=14"])
    assert load_checkpoint(tmp_path).hparams["data"]["preprocessing"]["bits"] == 14
