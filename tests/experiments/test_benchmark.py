"""padim benchmark: figures that fit together, and the same work by a peer."""

import json
import subprocess
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmark import job, parts
from experiments.cli import main
from padim import Levels, PatchStatistics
from runs import SMALL, failure, rows
from trees import mvtec_tree

TINY = [*(option for option in SMALL if option != "trainer=cpu"), "data=mvtec", "repeats=1"]

PEER = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root, train=5)
    return root


def benchmark(root: Path, folder: Path, *options: str) -> dict[str, Any]:
    main(["benchmark", *TINY, f"data.root={root}", f"hydra.run.dir={folder}", *options])
    found: dict[str, Any] = json.loads((folder / "benchmark.json").read_text())
    return found


def medians(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Figures by part and name."""
    figures = groupby(found["figures"], lambda figure: figure["part"])
    return {part: {f["name"]: f["median"] for f in of_part} for part, of_part in figures}


def test_figures_fit_together(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if len(commands) == 1:
            return subprocess.run(command, **options)
        job.main(*map(Path, command[-2:]))  # one process that imports torch takes long enough
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(job, "run", run)
    found = benchmark(root, tmp_path, "parts=[fit,score,memory,metrics]")
    assert all(f["min"] <= f["median"] <= f["max"] for f in found["figures"])
    part = medians(found)
    fit, score, memory = part["fit"], part["score"], part["memory"]

    phases = ("decode", "backbone", "statistics", "covariances", "rest (Lightning)")
    assert min(fit[name] for name in phases) > 0
    assert sum(fit[name] for name in phases) == pytest.approx(fit["whole"])
    assert fit["images a second"] == pytest.approx(5 / fit["whole"])
    added = (fit["statistics"] + fit["covariances"]) / (fit["decode"] + fit["backbone"])
    assert fit["added to decode + backbone"] == pytest.approx(100 * added)

    values = {(f["part"], f["name"]): f["values"] for f in found["figures"]}
    for batch in (1, 32):
        name = f"batch {batch}: "
        assert score[f"{name}score over backbone"] > 0
        rate, seconds = (values["score", f"{name}{kind}"] for kind in ("images a second", "score"))
        assert rate == pytest.approx([1000 * batch / one for one in seconds])

    # What test_resnet's first three maps are at 64 px, as 20 of their 32 + 48 + 96 channels.
    d = 20
    dense = 4 * 16 * 16 * d * (d + 1)
    assert memory["state with dense covariances"] == pytest.approx(dense / 1e6)
    one_level = PatchStatistics.bytes_for(Levels([(16, 16)], [d]))
    assert 0 < memory["state"] < one_level / 1e6 == pytest.approx(dense / 1e6)
    assert 0 < memory["fit of 5: beyond packages"] < memory["fit of 5: peak"]
    assert memory["fit of 50: peak"] > 0
    assert part["metrics"]["of 4 maps, 64 x 64"] > 0

    shown = (tmp_path / "benchmark.md").read_text()
    assert found["machine"]["cpu"] in shown
    assert all(figure["name"] in shown for figure in found["figures"])


def test_sweep_is_of_the_same_model(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def keep(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(parts, "run", keep)
    found = benchmark(root, tmp_path, "parts=[sweep]", "gaussian.eps=0.3", "seed=3")
    assert medians(found)["sweep"]["one by one over one pass, wall time"] > 0
    one_pass, basic = (command[3:] for command in commands)
    assert "hydra/launcher=basic" in basic
    main([*one_pass, f"hydra.sweep.dir={tmp_path / 'sweep'}", "pictures=0"])
    jobs = rows(tmp_path / "sweep" / "sweep.csv")
    assert {(job["reduction.seed"], job["gaussian.eps"]) for job in jobs} == {
        (seed, eps) for seed in "012" for eps in ("0.01", "0.1")
    }
    assert {job["category"] for job in jobs} == {"widget"}


@pytest.mark.skipif(not PEER.exists(), reason="needs the environment of make benchmark-peers")
def test_peer_does_the_same_work(root: Path, tmp_path: Path) -> None:
    found = benchmark(root, tmp_path, "parts=[]", "peer=anomalib", f"peer_python={PEER}")
    both = {row["name"]: (row["ours"]["median"], row["theirs"]["median"]) for row in found["peer"]}
    # Images need no resizing here; maps are resized bicubically by one, bilinearly by the other.
    for metric in ("image AUROC", "pixel AUROC", "PRO"):
        assert both[metric][0] == pytest.approx(both[metric][1], abs=1)
    assert both["state"][0] < both["state"][1]
    quotients = [row["quotient"] for row in found["peer"] if row["quotient"] is not None]
    assert min(quotients) > 0


def test_mistakes_are_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["benchmark", *TINY, f"data.root={root}", f"hydra.run.dir={tmp_path}"]
    assert "there are fit, score" in failure(capsys, [*command, "parts=[fti]"])
    none = [*command, "parts=[]", "peer=anomalib", f"peer_python={tmp_path / 'python'}"]
    assert "make benchmark-peers" in failure(capsys, none)
    other = [*command, "parts=[]", "peer=anomalib", "peer_python=.", "reduction=pca"]
    assert "reduction=random" in failure(capsys, other)
