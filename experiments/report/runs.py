"""The runs of a report, and what their folders hold."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from experiments.tables.result_table import SCORES
from experiments.tables.results import POOLED, Result, read_results
from experiments.tables.variants import numbered, what_varies


@dataclass(frozen=True)
class Run:
    """One model on one category: its name in the report, its result and its folder."""

    name: str
    result: Result
    folder: Path

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row for each test image, as in predictions.csv; none if there is no such file."""
        columns = ["path", "label", "defect", "score"]
        options: Any = {"dtype": {"path": str, "defect": str}, "keep_default_na": False}
        options["encoding_errors"] = "surrogateescape"
        read = self._read("predictions.csv", lambda path: pd.read_csv(path, **options)[columns])
        return pd.DataFrame(columns=columns) if read is None else read

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Columns threshold, x and y of each curve, by name; empty if there is no curves.csv."""
        read = self._read("curves.csv", lambda path: pd.read_csv(path).groupby("curve"))
        return {} if read is None else {str(name): points for name, points in read}

    @cached_property
    def gallery(self) -> dict[str, Any] | None:
        """As in gallery.json; None if there is no such file."""
        return self._read(
            "gallery/gallery.json", lambda path: json.loads(path.read_text(encoding="utf-8"))
        )

    @property
    def overrides(self) -> list[str]:
        """Settings of the command line, if the folder, or that of all categories, has them."""
        for folder in (self.folder, self.folder.parent):
            path = folder / ".hydra" / "overrides.yaml"
            if path.is_file():
                return [str(override) for override in OmegaConf.load(path)]
        return []

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        """A file of the folder; None if there is none, an error with its path if it is damaged."""
        path = self.folder / name
        try:
            return read(path) if path.is_file() else None
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


def measured(path: Path) -> list[Result]:
    """The results of a run, of a sweep or of all runs below a folder.

    Raises:
        ValueError: there are none; says why.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder; give that of a run or of a sweep")
    results = [result for result in read_results(path) if result.metrics]
    if not results and (path / "config.yaml").is_file():
        raise ValueError(
            f"{path}: the run has no metrics, for it had no test images or did not end: there"
            " is nothing to report (`padim evaluate` measures a model on other images)"
        )
    if not results and (path / "multirun.yaml").is_file():
        raise ValueError(f"{path}: no job of the sweep has finished")
    if not results:
        raise ValueError(f"{path} is no run, and holds none: there is no metrics.json")
    return results


def runs_in_detail(sources: Mapping[Path, Sequence[Result]]) -> tuple[list[Run], list[str]]:
    """All runs of each path that is a run, the best of each sweep, and notes on the choice."""
    runs, notes = [], []
    for path, results in sources.items():
        chosen = [result for result in results if result.category != POOLED]
        sweep = not (path / "config.yaml").is_file()
        if sweep:
            jobs = len({_job(result, path) for result in chosen})
            chosen = best(chosen)
            shown = list(dict.fromkeys(_job(result, path) for result in chosen))
            if jobs > len(shown):
                which = f"job {shown[0]} is" if len(shown) == 1 else f"jobs {', '.join(shown)} are"
                notes.append(
                    f"Of the {jobs} jobs in {path}, {which} shown: the first seed of the variant"
                    " with the highest mean of image AUROC, pixel AUROC and PRO."
                )
        for result in chosen:
            assert result.folder
            parts = [str(path)] if len(sources) > 1 else []
            parts += [f"job {_job(result, path)}"] if sweep else []
            if len(chosen) > 1 or not parts:
                parts.append(result.category)
            runs.append(Run(", ".join(parts), result, result.folder))
    return runs, notes


def best(results: Sequence[Result]) -> list[Result]:
    """The first replicate of the variant that has the highest mean of `SCORES`.

    Means over different categories are not compared: each set of categories has its own best.
    """
    scores = pd.DataFrame([r.metrics for r in results]).reindex(columns=[*SCORES]).mean(axis=1)
    rows = pd.DataFrame({"variant": numbered(what_varies(results)), "score": scores})
    rows["category"] = [result.category for result in results]
    variants = rows.groupby("variant").agg(
        score=("score", "mean"), categories=("category", lambda some: str(sorted({*some})))
    )
    highest = variants["score"].fillna(-np.inf).groupby(variants["categories"]).idxmax()
    first = rows[rows["variant"].isin(highest)].drop_duplicates(["variant", "category"])
    return [results[i] for i in first.index]


def comparable(sources: Mapping[Path, Sequence[Result]]) -> list[Result]:
    """The results of all paths; where these or equal jobs of one differ, `run` is a setting.

    Of jobs that are equal and have equal metrics the first stands for all.
    """
    compared = []
    for path, results in sources.items():
        alike: dict[str, dict[str, Result]] = {}
        for result in results:
            title = result.config.get("table.title")
            job = str((title, result.category, result.settings, result.all_seeds))
            scores = {k: v for k, v in result.metrics.items() if not k.startswith("cost/")}
            alike.setdefault(job, {}).setdefault(str(scores), result)
        for same in alike.values():
            for result in same.values():
                own = result.folder if len(same) > 1 else path
                where = {} if own == path and len(sources) == 1 else {"run": str(own)}
                compared.append(replace(result, config=result.config | where))
    return compared


def about_sweep(path: Path) -> Iterator[str]:
    """Whether a sweep has ended, which jobs have failed, and what its notes.txt says."""
    if not (path / "multirun.yaml").is_file():
        return
    finished = {file.parent.name for file in path.glob("*/metrics.json")}
    if not (path / "sweep.csv").is_file():
        yield f"The sweep in {path} has not ended: {len(finished)} jobs have finished so far."
    elif failed := {file.parent.name for file in path.glob("*/.hydra")} - finished:
        yield f"Of {path}, these jobs have failed, see their fit.log: {', '.join(sorted(failed))}."
    if (notes := path / "notes.txt").is_file():
        yield from notes.read_text(encoding="utf-8").splitlines()


def _job(result: Result, path: Path) -> str:
    assert result.folder
    return result.folder.relative_to(path).parts[0]
