"""A part of every image that is not looked at, from the mask's file to pictures and reports."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.cli import main
from padim import load_checkpoint
from predicting import column, predict
from runs import SMALL, failure, rows
from trees import mvtec_tree

SIDE = 64


def mask_file(path: Path, size: int = SIDE, columns: slice = slice(0, 30)) -> Path:
    pixels = np.zeros((size, size), np.uint8)
    pixels[:, columns] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root, train=12, size=SIDE)
    mask_file(root / "mask.png")
    return root


def fit(root: Path, run: Path, *options: str) -> dict[str, float]:
    main(["fit", *SMALL, f"data.root={root}", f"hydra.run.dir={run}", "pictures=4", *options])
    return metrics(run)


def metrics(run: Path) -> dict[str, float]:
    found = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.endswith("_s")}


@pytest.mark.parametrize(("resolution", "workers"), [("crop", 0), ("original", 2)])
def test_it_is_left_out_of_all(root: Path, tmp_path: Path, resolution: str, workers: int) -> None:
    more = [f"preprocessing.resolution={resolution}", f"loading.num_workers={workers}"]
    whole = fit(root, tmp_path / "whole", *more)
    mask = mask_file(tmp_path / "mask.png")
    part = fit(root, tmp_path / "part", f"preprocessing.ignore={mask}", *more)
    assert part["cost/state_gb"] < 0.8 * whole["cost/state_gb"]
    model = load_checkpoint(tmp_path / "part").model
    assert model.ignored is not None
    assert not model.ignored[:, -10:].any()
    assert model.ignored[:, :10].all()
    mask.unlink()  # the model has it
    main(["evaluate", str(tmp_path / "part"), f"hydra.run.dir={tmp_path / 'again'}"])
    assert metrics(tmp_path / "again") == pytest.approx(part, rel=1e-5)


def test_defects_there_are_no_anomalies(root: Path, tmp_path: Path) -> None:
    fit(root, tmp_path / "run", f"preprocessing.ignore={root / 'mask.png'}")
    good = root / "widget" / "test" / "good" / "000.png"
    for name, columns in (("hidden", slice(0, 10)), ("seen", slice(44, 54))):
        pixels = np.asarray(Image.open(good)).copy()
        pixels[20:40, columns] = 255
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    paths = [good, tmp_path / "hidden.png", tmp_path / "seen.png"]
    assert predict(tmp_path / "run", tmp_path / "out", *paths) == 0
    score = {name: float(value) for name, value in column(tmp_path / "out", "score").items()}
    assert score["hidden.png"] < 0.7 * score["seen.png"]
    assert score["seen.png"] > 2 * score["000.png"]
    picture = np.asarray(Image.open(next((tmp_path / "out" / "pictures").glob("*hidden.png"))))
    assert (picture == 160).all(axis=2).sum() > 100  # stripes


def own_masks(root: Path, folder: Path) -> Path:
    """Of each test image a mask like that of all."""
    for image in root.glob("widget/test/*/*.png"):
        mask_file(folder / image.parent.name / image.name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("resolution", "workers"), [("crop", 0), ("original", 2)])
def test_own_masks_measure_as_one_of_all(
    root: Path, tmp_path: Path, resolution: str, workers: int
) -> None:
    more = [f"preprocessing.resolution={resolution}", f"loading.num_workers={workers}"]
    masks = own_masks(root, tmp_path / "masks")
    expected = fit(root, tmp_path / "all", f"preprocessing.ignore={root / 'mask.png'}", *more)
    found = fit(root, tmp_path / "own", f"preprocessing.ignore={masks}", *more)
    measured = [name for name in expected if name.startswith(("image/", "pixel/"))]
    assert len(measured) == 9
    for name in measured:
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    assert load_checkpoint(tmp_path / "own").model.ignored is None
    main(["evaluate", str(tmp_path / "own"), f"hydra.run.dir={tmp_path / 'again'}"])
    assert metrics(tmp_path / "again") == pytest.approx(found, rel=1e-5)
    images = root / "widget" / "test"
    assert predict(tmp_path / "all", tmp_path / "a", images) == 0
    assert predict(tmp_path / "own", tmp_path / "b", images, f"preprocessing.ignore={masks}") == 0
    hide = mask_file(tmp_path / "hide" / "spot" / "000.png", columns=slice(8, 56))
    more = f"preprocessing.ignore={hide.parent.parent}"
    assert predict(tmp_path / "own", tmp_path / "c", images / "spot", more) == 0
    hidden, shown = (float(row["score"]) for row in rows(tmp_path / "c" / "scores.csv"))
    assert hidden < 0.5 * shown
    assert predict(tmp_path / "own", tmp_path / "d", images) == 0
    scores = [[float(row["score"]) for row in rows(tmp_path / n / "scores.csv")] for n in "abd"]
    assert scores[1] == pytest.approx(scores[0], rel=1e-4)
    assert scores[2] != pytest.approx(scores[0], rel=1e-3)  # masks are of images, not of models
    picture = np.asarray(Image.open(next((tmp_path / "b" / "pictures").glob("*.png"))))
    assert (picture == 160).all(axis=2).sum() > 100  # stripes


def test_own_masks_that_cannot_be_used(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = own_masks(root, tmp_path / "masks")
    run = tmp_path / "run"
    fit(root, run, f"preprocessing.ignore={masks}", "pictures=0")
    wrong = masks / "good" / "000.png"
    bad = {
        "the mask is 50 x 50 px, its image": lambda: mask_file(wrong, 50),
        "marks all of": lambda: mask_file(wrong, columns=slice(None)),
        "not an image": lambda: wrong.write_text("none"),
    }
    for message, spoil in bad.items():
        spoil()
        again = [f"hydra.run.dir={tmp_path / 'again'}", "overwrite=true"]
        said = failure(capsys, ["evaluate", str(run), *again])
        assert message in said
        assert str(wrong) in said
        out = tmp_path / message.split()[0] / message.split()[-1]
        assert predict(run, out, root / "widget" / "test", f"preprocessing.ignore={masks}") == 0
        (skipped,) = rows(out / "skipped.csv")
        assert message in skipped["reason"]
        assert str(wrong) in skipped["reason"]
    masks.rename(tmp_path / "moved")
    assert "no such file, nor a folder of .png" in failure(capsys, ["evaluate", str(run), *again])
    for command in ("predict", "calibrate"):
        more = f"preprocessing.ignore={root / 'mask.png'}"
        said = failure(capsys, [command, str(run), str(root / "widget" / "test" / "good"), more])
        assert "mask.png is no folder of masks" in said


@pytest.mark.parametrize("single", [False, True])
def test_jobs_that_share_a_pass(root: Path, tmp_path: Path, single: bool) -> None:
    own = own_masks(root, tmp_path / "masks") if single else None
    grid = ["backbone.layers=[1,2],[2,3]", "gaussian.shrinkage=0,0.3", "save_model=true"]
    mask = f"preprocessing.ignore={own or root / 'mask.png'}"
    for launcher in ("one_pass", "basic"):
        folder = f"hydra.sweep.dir={tmp_path / launcher}"
        more = [mask, *grid, folder, f"hydra/launcher={launcher}", "pictures=0"]
        main(["fit", "-m", *SMALL, f"data.root={root}", *more])
    for job in "0123":
        shared, alone = (metrics(tmp_path / name / job) for name in ("one_pass", "basic"))
        assert shared == pytest.approx(alone, rel=1e-4)
        models = [load_checkpoint(tmp_path / n / job).model for n in ("one_pass", "basic")]
        assert single or torch.equal(models[0].ignored, models[1].ignored)


def test_masks_that_cannot_be_used(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("none")
    bad = {
        mask_file(tmp_path / "small.png", 50): "is 50 x 50 px, images 64 x 64 px",
        mask_file(tmp_path / "all.png", columns=slice(None)): "marks all pixels of what the model",
        mask_file(tmp_path / "none.png", columns=slice(0)): "marks no pixel of what the model sees",
        tmp_path / "gone.png": "No such file",
        tmp_path / "text.png": "not an image",
    }
    for path, message in bad.items():
        arguments = ["fit", *SMALL, f"data.root={root}", f"preprocessing.ignore={path}"]
        said = failure(capsys, [*arguments, f"hydra.run.dir={tmp_path / 'run'}", "overwrite=true"])
        assert message in said
        assert path.name in said
    rotated = [f"data.root={root}", "data=rd_mvtec", f"preprocessing.ignore={root / 'mask.png'}"]
    said = failure(capsys, ["fit", *SMALL, *rotated, f"hydra.run.dir={tmp_path / 'run'}"])
    assert "ignore cannot be used with a rotation_crop" in said


def test_one_mask_for_all_is_the_fit_s(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, ["evaluate", str(run), "preprocessing.ignore=mask.png"])
    assert "preprocessing.ignore=mask.png is no folder of masks" in said
