"""Jobs of a sweep share a pass over the images and give what each gives alone."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.cli import main
from experiments.sweeps import one_pass
from experiments.tables.results import Result
from padim import ModelSlice, load_checkpoint
from runs import TINY, Returned, failure, metrics
from trees import mvtec_tree


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root, train=12)
    mvtec_tree(root, "gadget", train=8)
    return root


def sweep(root: Path, folder: Path, *options: str) -> Path:
    main(["fit", "-m", *TINY, f"data.root={root}", f"hydra.sweep.dir={folder}", *options])
    return folder


PCA = ["reduction=pca", "reduction.d=4"]

GRIDS = [
    ["backbone.layers=[1],[1,3],[3,2,1]", "reduction.d=5", "reduction.seed=0,1"],
    ["backbone.layers=[1,2],[2,3]", "reduction=none", "gaussian.neighbours=0,2"],
    ["backbone.layers=[1,2,3]", "reduction.d=6,12", "gaussian.shrinkage=0.3,auto"],
    ["backbone.layers=[1,2]", "reduction.d=8", "score=max_raw,topk_mean", "map.sigma=0,2"],
    [
        "backbone.layers=[1,2,3]",
        "reduction.d=7",
        "preprocessing.resolution=original",
        "map.resize=nearest",
    ],
    ["backbone.layers=[2],[1,3]", "reduction=pca,variance,orthogonal", "reduction.d=6"],
    ["backbone.layers=[1,2,3]", "reduction=none,variance", "gaussian.ensemble=null,sum"],
    ["backbone.layers=[3,1]", "reduction=pca", "reduction.d=4,8", "gaussian.shrinkage=0,auto"],
    ["backbone.layers=[2],[1,3]", "reduction=pca", "reduction.d=6", "select=true"],
    ["data.shots=3,all", "data.shot_seed=0,1", "backbone.layers=[1,2]", *PCA],
    ["data.shots=1,8,12", "backbone.layers=[1]", "reduction.d=4", "gaussian.shrinkage=auto"],
]


@pytest.mark.parametrize("grid", GRIDS)
def test_each_job_gives_what_it_gives_alone(root: Path, tmp_path: Path, grid: list[str]) -> None:
    shared = sweep(root, tmp_path / "shared", *grid)
    alone = sweep(root, tmp_path / "alone", *grid, "hydra/launcher=basic")
    jobs = sorted(path.name for path in alone.iterdir() if path.name.isdigit())
    assert jobs
    for job in jobs:
        assert metrics(shared / job) == pytest.approx(metrics(alone / job), abs=1e-5, rel=1e-5)
        files = {path.name for path in (alone / job).iterdir()}
        assert {path.name for path in (shared / job).iterdir()} == files
        config = (shared / job / "config.yaml").read_text()
        assert config == (alone / job / "config.yaml").read_text()


def test_the_images_are_looked_at_once(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from padim import Backbone

    seen = []
    forward = Backbone.forward

    def counted(self: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", counted)
    grid = ["backbone.layers=[1],[1,2]", "reduction.d=3,5", "gaussian.eps=0.01,0.1"]
    sweep(root, tmp_path, *grid)
    assert sum(seen) == 12 + 4
    assert "8 jobs in 1 group: 1 pass over the images instead of 8" in capsys.readouterr().out


def test_no_model_stays_when_its_job_is_done(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[torch.nn.Module]] = []
    alive = []

    def finish(job: one_pass.Job, part: ModelSlice, *others: Any) -> Result:
        alive.append(sum(model() is not None for model in models))
        models.append(weakref.ref(part.part))
        return finish_job(job, part, *others)

    finish_job = one_pass._finish
    monkeypatch.setattr(one_pass, "_finish", finish)
    sweep(root, tmp_path, "backbone.layers=[1,2]", "reduction.d=4,5,6,7")
    assert alive == [0, 0, 0, 0]


def test_times_of_a_shared_pass_are_no_job_s(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = sweep(root, tmp_path, "backbone.layers=[1],[1,2]", "reduction.d=4")
    assert capsys.readouterr().out.count("Fitted on 12 images") == 1
    for job in "01":
        found = json.loads((shared / job / "metrics.json").read_text())
        assert [name for name in found if "cost/" in name] == ["cost/state_gb"]
        assert (
            "4 channels of a shared pass, fitted on 12 images"
            in (shared / job / "fit.log").read_text()
        )


def test_what_cannot_be_shared_is_not(root: Path, tmp_path: Path, capsys) -> None:
    sweep(
        root,
        tmp_path,
        "backbone.layers=[1]",
        "reduction.d=3",
        "preprocessing.resize=64,48",
        "seed=0,1",
    )
    said = capsys.readouterr().out
    assert "4 jobs in 4 groups" in said  # random weights are drawn with the seed
    assert "3 of 4 jobs done, the best so far #" in said


def test_all_categories_are_shared_one_by_one(root: Path, tmp_path: Path) -> None:
    grid = ["backbone.layers=[1,2]", "reduction.d=4,6", "data.category=all"]
    shared = sweep(root, tmp_path / "shared", *grid)
    alone = sweep(root, tmp_path / "alone", *grid, "hydra/launcher=basic")
    for job in "01":
        assert metrics(shared / job) == pytest.approx(metrics(alone / job), abs=1e-5)
        assert (shared / job / "gadget" / "predictions.csv").is_file()


def test_a_job_that_fails_does_not_stop_the_others(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["backbone.layers=[1],[nowhere],[1,2]", "reduction.d=4"]
    arguments = ["fit", "-m", *TINY, f"data.root={root}", f"hydra.sweep.dir={tmp_path}", *grid]
    said = failure(capsys, arguments)
    assert "1 of the jobs failed:\n  #1: test_resnet has no layer 'nowhere'" in said
    assert (tmp_path / "0" / "metrics.json").is_file()
    assert not (tmp_path / "1" / "metrics.json").exists()
    assert (tmp_path / "2" / "metrics.json").is_file()
    assert (tmp_path / "table.csv").is_file()


def test_missing_data_fail_every_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "-m", *TINY, f"data.root={tmp_path / 'none'}", "reduction.d=4,5"]
    said = failure(capsys, [*arguments, f"hydra.sweep.dir={tmp_path}", "backbone.layers=[1]"])
    assert "2 of the jobs failed" in said
    assert said.count("/none: no such folder") >= 2


def test_a_small_limit_makes_more_passes(root: Path, tmp_path: Path, caplog) -> None:
    grid = ["backbone.layers=[1,2]", "reduction.d=4,5,6,7"]
    limited = sweep(root, tmp_path / "limited", *grid, "sweep.memory_limit=1e-9")
    free = sweep(root, tmp_path / "free", *grid)
    for job in "0123":
        assert metrics(limited / job) == pytest.approx(metrics(free / job), abs=1e-5)


def test_the_same_job_is_run_once_and_written_twice(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["reduction=pca", "reduction.d=4", "backbone.layers=[1,2]", "gaussian.eps=0.1,0.10"]
    folder = sweep(root, tmp_path, *grid)
    assert json.loads((folder / "0" / "metrics.json").read_text()) == json.loads(
        (folder / "1" / "metrics.json").read_text()
    )
    assert {path.name for path in (folder / "1").iterdir()} == {
        path.name for path in (folder / "0").iterdir()
    }


def test_a_stopped_sweep_goes_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["backbone.layers=[1],[1,2]", "reduction.d=4,6", "sweep.memory_limit=0.5"]
    whole = sweep(root, tmp_path / "whole", *grid)
    folder = tmp_path / "stopped"
    finished = []

    def stop(*arguments: object) -> Result:
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(one_pass_finish(*arguments))
        return finished[-1]

    one_pass_finish = one_pass._finish
    with monkeypatch.context() as patch:
        patch.setattr(one_pass, "_finish", stop)
        with pytest.raises(SystemExit):
            sweep(root, folder, *grid)
    before = (folder / "1" / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    main(["fit", f"resume={folder}"])
    said = capsys.readouterr().out
    assert "2 jobs of 4 finished before, 2 to do" in said
    assert "2 jobs in 1 group" in said
    assert (folder / "1" / "metrics.json").stat().st_mtime_ns == before
    for job in "0123":
        assert metrics(folder / job) == pytest.approx(metrics(whole / job), abs=1e-5)
    assert (folder / "table.csv").is_file()


def test_resuming_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no folder of a run or a sweep" in failure(capsys, ["fit", f"resume={tmp_path}"])


def test_an_empty_grid(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "-m", *TINY, f"data.root={root}", f"hydra.sweep.dir={tmp_path}"]
    assert "empty" in failure(capsys, [*arguments, "seed=range(0)"])


def test_models_are_saved_if_asked_for(root: Path, tmp_path: Path) -> None:
    grid = ["backbone.layers=[1],[1,2]", "reduction.d=4"]
    shared = sweep(root, tmp_path / "shared", *grid, "save_model=true")
    alone = sweep(root, tmp_path / "alone", *grid, "save_model=true", "hydra/launcher=basic")
    image = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    for job in "01":
        found, expected = (load_checkpoint(f / job)(image) for f in (shared, alone))
        torch.testing.assert_close(found.maps, expected.maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("launcher", ["one_pass", "basic"])
def test_a_job_returns_what_a_search_asks_for(root: Path, tmp_path: Path, launcher: str) -> None:
    grid = ["backbone.layers=[1,2]", "reduction.d=4,6", f"hydra/launcher={launcher}"]
    grid.append("+hydra.callbacks.returned._target_=runs.Returned")
    for objective in (["pixel/pro"], ["image/auroc", "pixel/pro"]):
        Returned.values.clear()
        wanted = objective[0] if len(objective) == 1 else f"[{','.join(objective)}]"
        folder = sweep(root, tmp_path / str(len(objective)), *grid, f"objective={wanted}")
        expected = [tuple(metrics(folder / job)[name] for name in objective) for job in "01"]
        assert Returned.values == (
            [value for (value,) in expected] if len(objective) == 1 else expected
        )


def test_an_objective_that_is_not_measured(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, "backbone.layers=[1,2]", "reduction.d=4", f"data.root={root}"]
    where = [f"hydra.run.dir={tmp_path}", "objective=image/roc"]
    said = failure(capsys, ["fit", *options, *where])
    assert "objective=image/roc: the run has no such metric; it has image/auroc, " in said
