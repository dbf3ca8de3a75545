"""Searches by Optuna: the space, the study that goes on, and what is wrong with one."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra_plugins.padim_optuna import distribution
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.cli import main
from runs import TINY, failure, metrics, rows

SPACE = ["reduction.d=range(2,9,2)", "backbone.layers=[1],[1,2]", "gaussian.eps=interval(0.01,1)"]
SEARCH = ["hydra/sweeper=optuna", "hydra.sweeper.batch_size=3"]


def search(root: Path, folder: Path, *options: str) -> list[str]:
    place = [f"data.root={root}", f"hydra.sweep.dir={folder}"]
    return ["fit", "-m", *TINY, *SEARCH, *place, "objective=pixel/pro", *options]


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="padim", storage=f"sqlite:///{folder / 'study.db'}")


SPACES = {
    "a=range(2,9,2)": IntDistribution(2, 8, step=2),
    "a=range(0.5,1.5,0.5)": CategoricalDistribution(["0.5", "1.0"]),
    "a=interval(0,0.4)": FloatDistribution(0, 0.4),
    "a=tag(log,interval(0.001,1))": FloatDistribution(0.001, 1, log=True),
    "a=int(interval(1,9))": IntDistribution(1, 9),
    "a=[x],[x,y]": CategoricalDistribution(["[x]", "[x,y]"]),
    "a=1,null": CategoricalDistribution(["1", "null"]),
}


@pytest.mark.parametrize("text", SPACES)
def test_what_an_override_spans(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([text])
    assert distribution(override) == SPACES[text]


def test_a_search_goes_on(widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style = dict(mpl.rcParams)
    main(search(widget.parent, tmp_path, *SPACE, "hydra.sweeper.n_trials=5"))
    assert dict(mpl.rcParams) == style
    said = capsys.readouterr().out
    assert "3 jobs in 1 group" in said
    assert "5 of 5 trials, the best so far" in said
    names = {path.stem for path in (tmp_path / "pictures").glob("study_*.png")}
    assert names == {"study_history", "study_slice", "study_parallel", "study_importance"}
    main(["fit", f"resume={tmp_path}", "hydra.sweeper.n_trials=7"])
    trials = study(tmp_path).trials
    assert [trial.number for trial in trials] == list(range(7))
    for trial in trials:
        assert trial.value == metrics(tmp_path / str(trial.number))["pixel/pro"]
    assert len(rows(tmp_path / "sweep.csv")) == 7


def test_two_objectives(widget: Path, tmp_path: Path) -> None:
    options = ["objective=[pixel/pro,cost/state_gb]", "hydra.sweeper.direction=[maximize,minimize]"]
    main(search(widget.parent, tmp_path, *SPACE[:2], *options, "hydra.sweeper.n_trials=4"))
    assert study(tmp_path).best_trials
    assert (tmp_path / "pictures" / "study_front.png").is_file()


def test_a_trial_that_fails_is_one(
    widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["backbone.layers=[nowhere]", "reduction.d=range(2,9)", "hydra.sweeper.n_trials=2"]
    assert "2 of the jobs failed" in failure(capsys, search(widget.parent, tmp_path, *options))
    assert [trial.state.name for trial in study(tmp_path).trials] == ["FAIL", "FAIL"]


FAULTS: dict[str, tuple[list[str], str]] = {
    "no objective": (["objective=null"], "name what is searched for with objective=METRIC"),
    "directions": (["hydra.sweeper.direction=[maximize,minimize]"], "has 2 for 1 objectives"),
    "a grid": (["sweep.zip=[reduction.d]"], "are of grids"),
    "unknown direction": (["hydra.sweeper.direction=up"], "up"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    options, message = FAULTS[fault]
    assert message in failure(capsys, search(tmp_path, tmp_path / "s", *SPACE, *options))


OTHERS: dict[str, tuple[list[str], str]] = {
    "space": (["backbone.layers=[1],[2],[3]"], "is of another search space"),
    "direction": (
        ["backbone.layers=[1],[2]", "hydra.sweeper.direction=minimize"],
        "is to maximize",
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_study_of_that_name(
    widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str
) -> None:
    storage = f"sqlite:///{tmp_path / 'known.db'}"
    known = optuna.create_study(study_name="padim", storage=storage, direction="maximize")
    space: Any = {"backbone.layers": CategoricalDistribution(["[1]", "[2]"])}
    known.ask(space)
    options, message = OTHERS[other]
    where = f"hydra.sweeper.storage='{storage}'"
    said = failure(capsys, search(widget.parent, tmp_path / "s", *options, where, "reduction.d=4"))
    assert message in said
    assert "hydra.sweeper.study_name" in said
