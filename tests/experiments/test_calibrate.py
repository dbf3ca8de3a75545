"""padim calibrate: thresholds from a held-out normal set, or the best F1 of labelled images."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve

from experiments.cli import main
from padim import LitPaDiM, load_checkpoint
from runs import SMALL, failure, rows
from trees import mvtec_tree

QUICK = ["trainer=cpu", "loading.num_workers=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data` and the runs `run` and `bare` (not calibrated) of it, `good` of 8 and `bad` images."""
    folder = tmp_path_factory.mktemp("calibrate")
    mvtec_tree(folder / "data", train=6)
    more = mvtec_tree(folder / "more", train=8, seed=1)
    shutil.copytree(more / "train" / "good", folder / "good")
    shutil.copytree(more / "test" / "spot", folder / "bad" / "spot")
    shutil.copytree(folder / "data" / "widget" / "train" / "good", folder / "copies")
    (folder / "bad" / "blank").mkdir()
    shutil.copy(folder / "good" / "000.png", folder / "bad" / "blank" / "hardly.png")
    (folder / "bad" / "blank" / "broken.png").write_text("no image")
    argv = sys.argv
    try:
        fit = ["fit", *SMALL, "pictures=0", "logger=none", "gaussian.eps=0.1"]
        fit += [f"data.root={folder / 'data'}", "threshold.false_alarm_rate=0.2"]
        main([*fit, f"hydra.run.dir={folder / 'run'}"])
        main([*fit[:-1], "threshold=none", f"hydra.run.dir={folder / 'bare'}"])
    finally:
        sys.argv = argv
    return folder


@pytest.fixture
def calibrated(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calibrates in `folder`; the new model."""
    monkeypatch.chdir(folder)

    def calibrate(*arguments: str) -> LitPaDiM:
        main(["calibrate", *arguments, *QUICK, "-o", str(tmp_path / "new.ckpt")])
        return load_checkpoint(tmp_path / "new.ckpt")

    return calibrate


def scored(tmp_path: Path, model: Path, *arguments: object) -> list[dict[str, str]]:
    """What predict says of images."""
    more = [*QUICK, "pictures=false", "overwrite=true", f"hydra.run.dir={tmp_path / 'scored'}"]
    main(["predict", str(model), *map(str, arguments), *more])
    return rows(tmp_path / "scored" / "scores.csv")


def scores(tmp_path: Path, model: Path, *images: object) -> np.ndarray:
    return np.array([float(row["score"]) for row in scored(tmp_path, model, *images)])


@pytest.mark.parametrize("model", ["run", "bare"])
def test_scores_of_a_held_out_set_take_the_place_of_those_of_the_fit(
    calibrated, folder: Path, tmp_path: Path, model: str
) -> None:
    expected = scores(tmp_path, folder / model, folder / "good")
    new = calibrated(model, "good", "threshold.false_alarm_rate=0.25")
    kept = new.model.calibration
    assert sorted(kept.scores.tolist()) == pytest.approx(sorted(expected), rel=1e-5)
    assert kept.rate == 0.25
    # Of 8 images and a new one the two highest may be anomalous: the second of the 8 is the limit.
    assert sum(kept.scores >= kept.thresholds[0]) == 1
    old = load_checkpoint(folder / model)
    for name, value in old.state_dict().items():
        assert "calibration" in name or torch.equal(new.state_dict()[name], value)
    assert new.hparams["data"] == old.hparams["data"]


def test_rate_is_the_stored_one_or_the_lowest_that_can_be_promised(
    calibrated, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrated("run", "good/00[1-5].png", "good/000.png").model.calibration.rate == 0.2
    assert "as at most 20 % of normal images do" in capsys.readouterr().err
    new = calibrated("run", "good/00[1-3].png")
    assert len(new.model.calibration.scores) == 3
    assert new.model.calibration.false_alarm_rate == 0.2
    said = capsys.readouterr().err
    assert "a false-alarm rate of 0.2 takes 4 normal images: with 3 it is 0.25" in said
    assert "as at most 25 % of normal images do" in said


def test_it_is_told_how_many_of_each_defect_are_found(
    calibrated, capsys: pytest.CaptureFixture[str]
) -> None:
    calibrated("run", "good/00[1-7].png", "abnormal=bad")
    said = capsys.readouterr().err
    assert "  spot: 2 of 2 called anomalous" in said
    assert "  good: 0 of 7 called anomalous" in said
    assert "Left out: bad/blank/broken.png: not an image" in said


@pytest.mark.parametrize("kind", ["max", "topk_mean"])
def test_best_f1_of_labelled_images(
    calibrated,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    def load(path: str) -> LitPaDiM:
        module = load_checkpoint(path)
        module.model.image_score.kind = kind
        return module

    monkeypatch.setattr("experiments.calibrate.load_checkpoint", load)
    new = calibrated("run", "good", "abnormal=bad", "threshold.by=best_f1").model
    assert "the best F1 of 8 normal and 3 abnormal images" in capsys.readouterr().err
    found = scored(tmp_path, tmp_path / "new.ckpt", "--raw", folder / "good", folder / "bad")
    score = np.array([float(row["score"]) for row in found])
    maps = sorted((tmp_path / "scored" / "maps").iterdir())
    peak = np.array([np.load(path).max() for path in maps])
    for limit, values in zip(new.calibration.fixed, (score, peak), strict=True):
        precision, recall, thresholds = precision_recall_curve(np.arange(len(found)) >= 8, values)
        f1 = 2 * precision * recall / (precision + recall).clip(1e-9)
        assert limit == pytest.approx(thresholds[f1[:-1].argmax()], rel=1e-5)
    if kind == "max":
        assert new.calibration.fixed[0] == new.calibration.fixed[1]
        assert all((row["regions"] != "0") == (row["verdict"] == "anomalous") for row in found)


def test_a_fixed_threshold_is_honoured_until_another_is_given(
    calibrated, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = calibrated("run", "good", "abnormal=bad/spot", "threshold.by=best_f1").model.calibration
    model, images = tmp_path / "new.ckpt", folder / "data" / "widget" / "test"
    limit = new.fixed[0]
    capsys.readouterr()
    main(["evaluate", str(model), "pictures=0", "logger=none", f"hydra.run.dir={tmp_path / 'ev'}"])
    judged = rows(tmp_path / "ev" / "predictions.csv")
    assert all((float(row["score"]) >= limit) == (row["verdict"] == "1") for row in judged)
    p = new.p_value(torch.tensor([float(row["score"]) for row in judged]))
    assert [float(row["p_value"]) for row in judged] == pytest.approx(p.tolist())
    metrics = (tmp_path / "ev" / "metrics.json").read_text()
    assert f'"threshold/image": {limit}' in metrics
    assert "threshold/false_alarm_rate" not in metrics
    scored(tmp_path, model, images, "threshold.false_alarm_rate=0.5")
    assert "as at most 50 % of normal images do" in capsys.readouterr().err
    scored(tmp_path, model, images, "threshold.score=0")
    assert "4 of 4 are anomalous" in capsys.readouterr().err
    calibrated(str(model), "good")
    assert "as at most 20 % of normal images do" in capsys.readouterr().err


def test_the_mark_of_a_threshold_chosen_on_the_test_set(
    calibrated, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = calibrated("bare", "test_set=true", "threshold.by=best_f1").model.calibration
    assert "what they say of it is too good" in capsys.readouterr().err
    images = folder / "data" / "widget" / "test"
    found = scored(tmp_path, tmp_path / "new.ckpt", images)
    said = capsys.readouterr().err
    expected = f"{new.fixed[0]:.4g} or more, the best F1 of the images it was tested on"
    assert f"Anomalous is what scores {expected}" in said
    assert [row["verdict"] for row in found] == ["normal"] * 2 + ["anomalous"] * 2
    assert not any(row["p_value"] for row in found)


def test_more_images_drop_a_fixed_threshold(
    calibrated, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = calibrated("run", "test_set=true", "threshold.by=best_f1").model.calibration
    old = load_checkpoint(folder / "run").model.calibration
    assert torch.equal(new.scores, old.scores)  # p-values are those of before
    model, updated = str(tmp_path / "new.ckpt"), str(tmp_path / "updated.ckpt")
    main(["update", model, f"data.root={folder / 'more'}", "trainer=cpu", "-o", updated])
    assert "the best F1 of the images it was tested on, is dropped" in capsys.readouterr().err
    scored(tmp_path, Path(updated), folder / "good/000.png")
    assert "% of normal images do" in capsys.readouterr().err
    both = [model, str(folder / "run"), "allow_overlap=true"]
    said = failure(capsys, ["merge", *both, "-o", str(tmp_path / "m.ckpt")])
    assert "do not merge that differ in calibration.fixed: [" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no images: name normal ones that the model was not fitted on"),
        (["bad/blank/broken.png"], "none of these images can be read"),
        (
            ["good", "data/widget/train/*/003.png"],
            "images of the fit: what they score is too low (",
        ),
        (["copies"], "6 of these images are images of the fit, or copies"),
        (["bad", "abnormal=bad/spot"], "spot/000.png: is given twice, as normal and as abnormal"),
        (["good", "abnormal=data/widget/test"], "a folder 'good' is among the abnormal images"),
        (["good", "threshold.by=f1"], "threshold.by must be rate or best_f1, got 'f1'"),
        (["good", "threshold.by=best_f1"], "needs images with defects: abnormal=bad/"),
        (["good", "threshold.false_alarm_rate=low"], "such as 0.01, or null, got 'low'"),
        (["test_set=true"], "only for threshold.by=best_f1"),
        (["good", "test_set=true", "threshold.by=best_f1"], "in place of others"),
        (["good", "threshold=0.02"], "did you mean threshold.false_alarm_rate=0.02?"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    assert message in failure(capsys, ["calibrate", "run", *arguments, *QUICK, "-o", str(out)])
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_found_before_the_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("experiments.calibrate.load_checkpoint", lambda _: pytest.fail("worked"))
    said = failure(capsys, ["calibrate", "run", "good", *QUICK, "-o", "run/model.ckpt/new.ckpt"])
    assert "run/model.ckpt/new.ckpt cannot be written" in said
    assert "model.ckpt is a file, no folder" in said
