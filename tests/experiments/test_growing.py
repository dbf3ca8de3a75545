"""padim update and padim merge."""

import sys
from pathlib import Path
from shutil import copyfile, copytree

import pytest
import torch

from experiments.cli import main
from oracle import statistics_error
from padim import load_checkpoint
from runs import SMALL, failure
from trees import mvtec_tree

COPIES = ["data=folder", "data.normal=copies", "preprocessing.resize=64"]

PLAIN = [*SMALL, "pictures=0", "logger=none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets `a` and `b`, and the runs of both, of all their images, and of another d."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("a", "b")):
        mvtec_tree(folder / name, seed=seed)
    both = folder / "ab" / "widget" / "train" / "good"
    both.mkdir(parents=True)
    for name in ("a", "b"):
        for path in sorted((folder / name / "widget" / "train" / "good").iterdir()):
            (both / f"{name}_{path.name}").write_bytes(path.read_bytes())
    copytree(folder / "a" / "widget" / "train" / "good", folder / "copies")
    argv = sys.argv
    try:
        for name in ("a", "b", "ab"):
            main(
                ["fit", *PLAIN, f"data.root={folder / name}", f"hydra.run.dir={folder / name}_run"]
            )
        out = f"hydra.run.dir={folder / 'other_run'}"
        main(["fit", *PLAIN, f"data.root={folder / 'b'}", "reduction.d=10", out])
    finally:
        sys.argv = argv
    copyfile(folder / "a_run" / "model.ckpt", folder / "copy.ckpt")
    old = torch.load(folder / "a_run" / "model.ckpt", weights_only=True)
    del old["padim_fingerprints"]
    torch.save(old, folder / "old.ckpt")
    return folder


def test_update_and_merge_equal_a_fit_of_all_images(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["update", str(folder / "a_run"), f"data.root={folder / 'b'}", "-o", "new dir"])
    assert "Added 6 images to 6 in" in capsys.readouterr().err
    main(["merge", str(folder / "a_run"), str(folder / "b_run"), "-o", "sub/merged.ckpt"])
    printed = capsys.readouterr().err
    assert "Images: 6 + 6" in printed
    assert "A model of 12 images is written to sub/merged.ckpt" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new dir", "sub"]
    for made in ("new dir", "sub/merged.ckpt"):
        found = load_checkpoint(tmp_path / made).model.statistics
        assert statistics_error(found, load_checkpoint(folder / "ab_run").model.statistics) < 5e-6
    main(["evaluate", "sub/merged.ckpt", "pictures=0", "hydra.run.dir=evaluated"])
    assert (tmp_path / "evaluated" / "metrics.json").is_file()


def test_updated_model_scores_on_the_test_set_of_the_first_fit(
    folder: Path, tmp_path: Path
) -> None:
    main(["update", str(folder / "a_run"), f"data.root={folder / 'b'}", "-o", str(tmp_path)])
    assert load_checkpoint(tmp_path).hparams["data"]["root"] == str(folder / "a")


def test_without_out_there_is_a_folder_of_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["merge", str(folder / "a_run"), str(folder / "b_run")])
    (found,) = tmp_path.glob("runs/*/model.ckpt")
    assert load_checkpoint(found).model.statistics.count == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["update", "a_run"], "those are the images of the fit, which would count twice"),
        (["update", "a_run", "preprocessing.resize=32"], r"was fitted on images of (64, 64)"),
        (["update", "b", "data.root=a"], "there is no checkpoint at"),
        (["merge", "a_run"], "it takes two models or more to merge, got"),
        (["merge", "a_run", "a_run"], "both have seen 6 of the same images"),
        (["merge", "a_run", "copy.ckpt"], "both have seen 6 of the same images"),
        (["merge", "a_run", "old.ckpt"], "both have seen 6 of the same images"),
        (["merge", "b_run", "a_run", "ab_run"], "both have seen 12 of the same images"),
        (["update", "ab_run", "data.root=b"], "6 of these images were counted before"),
        (["update", "a_run", *COPIES], "6 of these images were counted before"),
        (["merge", "a_run", "other_run"], "do not merge that differ in reduction.d: 20 and 10"),
    ],
)
def test_mistakes_are_told_in_a_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert message in failure(capsys, [*arguments, "-o", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command", [["merge", "a_run", "copy.ckpt"], ["update", "a_run", *COPIES], ["update", "a_run"]]
)
def test_images_count_twice_for_who_insists(
    command: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    main([*command, "allow_overlap=true", "-o", str(tmp_path)])
    assert load_checkpoint(tmp_path).model.statistics.count == 12
    before, after = (
        load_checkpoint(path).model.calibration.thresholds[0] for path in ("a_run", tmp_path)
    )
    said = capsys.readouterr().err
    assert f"Anomalous is what scores {after:.4g} or more" in said
    assert f"The threshold was {before:.4g}. Images are scored once" in said


def test_other_preparation_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = torch.load(folder / "b_run" / "model.ckpt", weights_only=True)
    saved["hyper_parameters"]["data"]["preprocessing"]["roi"] = [0, 0, 60, 60]
    torch.save(saved, tmp_path / "roi.ckpt")
    arguments = ["merge", str(folder / "a_run"), str(tmp_path / "roi.ckpt")]
    assert "differ in preprocessing.roi: None and (0, 0, 60, 60)" in failure(capsys, arguments)


def test_an_update_of_a_fit_on_few_images_takes_all(folder: Path, tmp_path: Path) -> None:
    few, more = tmp_path / "few", tmp_path / "more.ckpt"
    root = f"data.root={folder / 'a'}"
    main(["fit", *PLAIN, root, "data.shots=2", f"hydra.run.dir={few}"])
    main(["update", str(few / "model.ckpt"), f"data.root={folder / 'b'}", "-o", str(more)])
    count = load_checkpoint(folder / "b_run" / "model.ckpt").model.statistics.count
    assert load_checkpoint(more).model.statistics.count == 2 + count
