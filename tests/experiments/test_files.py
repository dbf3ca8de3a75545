"""Files are written whole or not at all, and an error names them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from experiments.callbacks import ResumeState
from experiments.cli import main
from experiments.files import write_text
from experiments.scoring.predictions import PredictionFiles
from experiments.scoring.verdicts import Verdicts
from padim import Backbone, LitPaDiM, PaDiM, RandomChannels
from runs import SMALL, failure
from trees import mvtec_tree


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has no room for files of some name."""
    fsync = os.fsync

    def fill(name: str) -> None:
        def refuse(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith(name):
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", refuse)

    return fill


def test_after_an_error_all_is_as_it_was(tmp_path: Path, full_disk: Callable[[str], None]) -> None:
    path = tmp_path / "metrics.json"
    write_text(path, "before")
    full_disk("metrics.json")
    with pytest.raises(OSError, match=r"/metrics.json cannot be written: No space left on device$"):
        write_text(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_predictions_are_whole_or_not_there(tmp_path: Path) -> None:
    with PredictionFiles(tmp_path, "model", Verdicts(None, None, None, None, None)) as files:
        files.write([])
        assert not (tmp_path / "predictions.json").exists()
    assert (tmp_path / "predictions.json").read_text().endswith('"skipped": []}\n')
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["model.ckpt", "metrics.json", "predictions.csv", "table.csv"])
def test_a_fit_on_a_full_disk_ends_with_a_line(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_disk: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    mvtec_tree(tmp_path / "data")
    full_disk(name)
    fit = ["fit", *SMALL, "pictures=0", "data.root=data", "hydra.run.dir=run"]
    assert f"Error: {tmp_path}/run/{name} cannot be written: No space left" in failure(capsys, fit)
    assert not Path("run", name).exists()
    assert not [path for path in Path("run").iterdir() if path.name.startswith(f".{name}")]


def test_a_resume_state_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("unexpected pos 576 vs 534")

    monkeypatch.setattr(torch, "save", refuse)
    model = PaDiM(Backbone("test_resnet", [1], "random"), RandomChannels(5))
    callback, module = ResumeState(1), LitPaDiM(model)
    callback.folder = tmp_path
    with pytest.raises(OSError, match=r"/partial_fit_0.ckpt cannot be written: is the disk full"):
        callback._write(Trainer(logger=False, accelerator="cpu"), module)
    assert not list(tmp_path.iterdir())


def test_a_model_needs_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mvtec_tree(tmp_path / "data")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    main(["fit", *SMALL, "pictures=0", "data.root=data", "hydra.run.dir=run", "logger=none"])
    assert Path("run/model.ckpt").exists()
