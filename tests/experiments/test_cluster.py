"""Sweeps whose groups are jobs of a cluster: here processes of this machine."""

from pathlib import Path

import pytest

from runs import SMALL, failure, rows
from trees import mvtec_tree

PLAIN = [*SMALL, "pictures=0", "logger=none"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mvtec_tree(tmp_path / "data")
    return tmp_path / "data"


def test_each_group_is_one_job_of_the_cluster(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    jobs = ["reduction.d=5,9999,10"]
    command = ["fit", "-m", *PLAIN, f"data.root={root}", *jobs]
    here, there = tmp_path / "here", tmp_path / "there"
    alone = failure(capsys, [*command, f"hydra.sweep.dir={here}"])
    local = "hydra/launcher=submitit_local"
    sent = failure(capsys, [*command, f"hydra.sweep.dir={there}", local])
    assert "3 jobs in 1 group: 1 pass over the images instead of 3" in sent
    assert len(list((there / ".submitit").glob("*/*_submitted.pkl"))) == 1
    for both in (alone, sent):
        assert "1 of the jobs failed" in both
        assert "#1: reduction.d is 9999, but the layers have" in both
    for number in (0, 2):
        mine, theirs = (rows(f / str(number) / "predictions.csv") for f in (there, here))
        assert mine == theirs
    assert len(rows(there / "sweep.csv")) == len(rows(here / "sweep.csv")) == 2


def test_missing_package_names_the_extra(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    command = ["fit", "-m", *PLAIN, f"data.root={root}", "reduction.d=5,10"]
    alone = failure(
        capsys, [*command, f"hydra.sweep.dir={tmp_path}", "hydra/launcher=submitit_local"]
    )
    assert "pip install 'padim-lightning[cluster]'" in alone
