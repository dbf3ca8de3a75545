"""The folders of runs: each is one run's own."""

from pathlib import Path

import pytest

from experiments.cli import main
from experiments.folders import own_folder
from runs import SMALL, failure
from trees import mvtec_tree

PLAIN = [*SMALL, "pictures=0", "logger=none", "threshold=none"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mvtec_tree(tmp_path / "data")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is started is started in the same second."""
    for module in ("hydra.core.utils", "experiments.folders"):
        monkeypatch.setattr(f"{module}.datetime", _Clock)


class _Clock:
    @staticmethod
    def now() -> "_Clock":
        return _Clock()

    def strftime(self, _: str) -> str:
        return "now"

    def __format__(self, _: str) -> str:
        return "now"


def test_a_folder_that_is_there_is_not_taken(tmp_path: Path) -> None:
    names = [own_folder(tmp_path / "deep" / "run").name for _ in range(3)]
    assert names == ["run", "run_2", "run_3"]


@pytest.mark.usefixtures("one_second")
def test_runs_sweeps_and_models_of_one_second_have_folders_of_their_own() -> None:
    fit = ["fit", *PLAIN, "data.root=data"]
    main(fit)
    main([*fit, "-m", "gaussian.eps=0.1,1"])
    main(["evaluate", "runs/now", "trainer=cpu", "pictures=0"])
    main(["predict", "runs/now", "data/widget/test", "trainer=cpu", "pictures=false"])
    main(["calibrate", "runs/now", "data/widget/test/good", "trainer=cpu"])
    runs = sorted(path.name for path in Path("runs").iterdir())
    assert runs == ["now", "now_2", "now_3", "now_4", "now_5"]
    assert Path("runs/now/model.ckpt").exists()
    written = [str(path.parent) for path in sorted(Path("runs/now_2").rglob("config.yaml"))]
    assert [path for path in written if ".hydra" not in path] == ["runs/now_2/0", "runs/now_2/1"]
    assert not Path("runs/now_3/model.ckpt").exists()
    assert Path("runs/now_4/predictions.json").exists()
    assert [path.name for path in Path("runs/now_5").iterdir()] == ["model.ckpt"]


def test_a_folder_that_holds_a_run_is_overwritten_when_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit = ["fit", *SMALL, "data.root=data", "hydra.run.dir=mine"]
    main([*fit, "pictures=2"])
    Path("mine/notes.txt").touch()
    before = {path: path.stat().st_mtime_ns for path in Path("mine").rglob("*")}
    said = failure(capsys, [*fit, "pictures=0"])
    assert "hydra.run.dir=mine holds a run already (metrics.json): choose another folder" in said
    assert {path: path.stat().st_mtime_ns for path in Path("mine").rglob("*")} == before
    said = failure(capsys, [*fit, "overwrite=true", "data.category=missing"])
    assert Path("mine/metrics.json").exists()
    main([*fit, "pictures=0", "save_model=false", "overwrite=true"])
    assert not any(Path("mine", name).exists() for name in ("model.ckpt", "gallery/gallery.json"))
    assert Path("mine/metrics.json").exists()
    assert Path("mine/notes.txt").exists()


def test_a_sweep_overwrites_all_jobs_of_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["fit", "-m", *PLAIN, "data.root=data", "hydra.sweep.dir=mine"]
    main([*sweep, "gaussian.eps=0.1,1,2"])
    assert "hydra.sweep.dir=mine holds a run" in failure(capsys, [*sweep, "gaussian.eps=0.1,1"])
    main([*sweep, "gaussian.eps=0.1,1", "overwrite=true"])
    assert [path.parent.name for path in sorted(Path("mine").glob("*/metrics.json"))] == ["0", "1"]


@pytest.mark.parametrize(
    "left_over",
    [
        {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"},
        {"RANK": "1", "WORLD_SIZE": "2"},
        {"LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"},
    ],
)
def test_variables_of_other_launchers_are_ignored(
    left_over: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    main(["fit", *PLAIN, "data.root=data", "hydra.run.dir=run"])
    assert Path("run/metrics.json").exists()
    assert Path("run/model.ckpt").exists()
