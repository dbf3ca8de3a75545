"""padim benchmark: measurements that fit together, and the same work by a baseline."""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmark import command, parts
from experiments.benchmark.command import Usage
from experiments.cli import main
from padim import Levels, PatchStatistics
from runs import SMALL, failure, rows
from trees import mvtec_tree

TINY = [*(option for option in SMALL if option != "trainer=cpu"), "data=mvtec", "repeats=1"]

BASELINE = Path(__file__).parents[2] / ".venv-baseline" / "bin" / "python"


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
    """Medians by part and name."""
    measured = groupby(found["measurements"], lambda one: one["part"])
    return {part: {one["name"]: one["median"] for one in of_part} for part, of_part in measured}


def test_measurements_fit_together(root: Path, tmp_path: Path) -> None:
    found = benchmark(root, tmp_path, "parts=[job,fit,score,metrics]")
    assert all(one["min"] <= one["median"] <= one["max"] for one in found["measurements"])
    part = medians(found)
    job, fit, score = part["job"], part["fit"], part["score"]

    whole = job.pop("whole")
    assert min(seconds for name, seconds in job.items() if not name.startswith("fit: ")) > 0
    assert sum(job.values()) == pytest.approx(whole)
    phases = {name: seconds for name, seconds in job.items() if name.startswith("fit: ")}
    assert len(phases) == 5
    assert fit["whole"] == pytest.approx(sum(phases.values()))
    assert part["metrics"]["of 4 test images"] == job["test: metrics"]

    values = {(one["part"], one["name"]): one["values"] for one in found["measurements"]}
    for batch in (1, 32):
        name = f"batch {batch}: "
        assert score[f"{name}score over backbone"] > 0
        rate, times = (values["score", f"{name}{kind}"] for kind in ("images a second", "score"))
        assert rate == pytest.approx([1000 * batch / one for one in times])

    shown = (tmp_path / "benchmark.md").read_text()
    assert found["machine"]["cpu"] in shown
    assert all(one["name"] in shown for one in found["measurements"])


def test_memory_is_of_fits_of_n_and_ten_times_as_many_images(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def run(arguments: Sequence[str]) -> Usage:
        given = [one for one in arguments if one.startswith("data.normal=")]
        if given:
            folder = Path(given[0].split("'")[1])
            seen.append(sum(path.is_file() and not path.is_symlink() for path in folder.iterdir()))
        return Usage(1.0, 1.0, 3_000_000, "") if given else run_command(arguments)

    run_command = command.run_command
    monkeypatch.setattr(command, "run_command", run)  # one process that imports torch is enough
    monkeypatch.setattr(parts, "run_command", lambda _: Usage(1.0, 1.0, 1_000_000, ""))
    memory = medians(benchmark(root, tmp_path, "parts=[memory]"))["memory"]
    assert seen == [5, 50]
    assert memory["fit of 5: peak"] == memory["fit of 50: peak"] == 3
    assert memory["fit of 5: beyond packages"] == 2

    # The first three maps of test_resnet at 64 px, and 20 of their 32 + 48 + 96 channels.
    d = 20
    dense = 4 * 16 * 16 * d * (d + 1)
    assert memory["state with dense covariances"] == pytest.approx(dense / 1e6)
    one_level = PatchStatistics.bytes_for(Levels([(16, 16)], [d]))
    assert 0 < memory["state"] < one_level / 1e6 == pytest.approx(dense / 1e6)


def test_sweep_is_of_the_same_model(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def keep(arguments: Sequence[str]) -> Usage:
        commands.append(list(arguments))
        return Usage(float(len(commands)), 1.0, 0, "")

    monkeypatch.setattr(command, "run_command", keep)
    found = benchmark(root, tmp_path, "parts=[sweep]", "gaussian.eps=0.3", "seed=3")
    assert medians(found)["sweep"]["one by one over one pass, wall time"] == 2
    one_pass, basic = (arguments[4:] for arguments in commands)
    assert "hydra/launcher=basic" in basic
    assert not [one for one in one_pass if one.startswith("-")]  # Hydra takes none between keys
    main(["fit", *one_pass, f"hydra.sweep.dir={tmp_path / 'sweep'}"])
    jobs = rows(tmp_path / "sweep" / "sweep.csv")
    assert {(job["reduction.seed"], job["gaussian.eps"]) for job in jobs} == {
        (seed, eps) for seed in "012" for eps in ("0.01", "0.1")
    }
    assert {job["category"] for job in jobs} == {"widget"}


def test_peak_is_not_that_of_the_parent() -> None:
    large = b"x" * 300_000_000
    assert command.run_command(["true"]).peak < len(large)


def test_a_command_that_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(ChildProcessError, match=r"ls .*nowhere.* failed: ls: .*nowhere"):
        command.run_command(["ls", "/nowhere"])


@pytest.mark.skipif(
    not BASELINE.exists(), reason="needs the environment of make benchmark-baseline"
)
def test_baseline_does_the_same_work(root: Path, tmp_path: Path) -> None:
    found = benchmark(
        root,
        tmp_path,
        *("parts=[]", "baseline=anomalib", f"baseline_python={BASELINE}"),
        "map.sigma=4",  # as of anomalib, whatever the size of the images
    )
    measured = {(one["name"], one["of"]): one["median"] for one in found["measurements"]}
    # Images need no resizing here; maps are resized bicubically by one, bilinearly by the other.
    for metric in ("image/auroc", "pixel/auroc", "pixel/pro"):
        assert measured[metric, "padim"] == pytest.approx(measured[metric, "anomalib"], abs=1)
    assert measured["cost/state_gb", "padim"] < measured["cost/state_gb", "anomalib"]


def test_mistakes_are_explained(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["benchmark", *TINY, f"data.root={root}", f"hydra.run.dir={tmp_path}", "parts=[]"]
    assert "there are job, fit" in failure(capsys, [*common, "parts=[fti]"])
    missing = [*common, "baseline=anomalib", f"baseline_python={tmp_path / 'python'}"]
    assert "make benchmark-baseline" in failure(capsys, missing)
