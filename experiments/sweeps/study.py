"""The pictures of a search, as Optuna draws them."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot, rc_context
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.visualization import matplotlib as plots

LEAST = 4
"""Finished trials of which there is something to see."""


def draw_study(
    study: Study, objectives: Sequence[str], folder: Path, kinds: Sequence[str] = ("png",)
) -> list[Path]:
    """Draw a study: its history, settings and their importance, or the Pareto front.

    Args:
        study: some of its trials are finished, or nothing is drawn.
        objectives: names of its values.
        folder: where study_history.png and others go.
        kinds: of files, such as png, pdf or svg.
    """
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.values]
    if len(done) < LEAST:
        return []
    name: dict[str, Any] = {"target_name": objectives[0]}
    charts: dict[str, Any]
    if len(objectives) > 1:
        charts = {"front": lambda: plots.plot_pareto_front(study, target_names=list(objectives))}
    else:
        evaluator = PedAnovaImportanceEvaluator()
        charts = {
            "history": lambda: plots.plot_optimization_history(study, **name),
            "slice": lambda: plots.plot_slice(study, **name),
            "parallel": lambda: plots.plot_parallel_coordinate(study, **name),
            "importance": lambda: plots.plot_param_importances(study, evaluator=evaluator, **name),
        }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with warnings.catch_warnings(), rc_context():  # Optuna sets a style for good
        warnings.simplefilter("ignore", ExperimentalWarning)
        for chart, draw in charts.items():
            figure = np.ravel(draw())[0].figure
            for kind in kinds:
                paths.append(folder / f"study_{chart}.{kind}")
                figure.savefig(paths[-1], dpi=110, bbox_inches="tight")
            pyplot.close(figure)
    return paths
