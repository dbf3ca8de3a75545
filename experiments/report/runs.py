"""What the folders given hold for a report."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from experiments.tables.results import POOLED, Result, read_results
from experiments.tables.variants import SCORES


@dataclass(frozen=True)
class Run:
    """One model on one category: its result, and what its folder holds beside.

    Args:
        name: tells it from the others of the report.
        result: read from `folder`.
        folder: of the run.
    """

    name: str
    result: Result
    folder: Path

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """A row for each test image, as in predictions.csv; none if there is no such file."""
        columns = ["path", "label", "defect", "score"]
        options: Any = {"dtype": {"path": str, "defect": str}, "keep_default_na": False}
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
        return self._read("gallery/gallery.json", lambda path: json.loads(path.read_text()))

    @property
    def config(self) -> str:
        """The whole configuration, as written."""
        return (self.folder / "config.yaml").read_text()

    @property
    def overrides(self) -> list[str]:
        """What was set on the command line, if the folder, or that of all categories, says so."""
        for folder in (self.folder, self.folder.parent):
            path = folder / ".hydra" / "overrides.yaml"
            if path.is_file():
                return [str(override) for override in OmegaConf.load(path)]
        return []

    @property
    def missing(self) -> list[str]:
        """What the folder does not hold, each with the reason that is most likely."""
        lacks = []
        if self.predictions.empty:
            lacks.append("no predictions.csv: counts and histogram are missing")
        if not self.curves:
            reason = "the images are all of one kind, or the run is from an earlier version"
            lacks.append(f"no curves.csv: {reason}")
        if not self.gallery:
            reason = "the run had pictures=0, or is from an earlier version"
            lacks.append(f"no gallery/: {reason}")
        return lacks

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        """A file of the folder; None if there is none, an error with its path if it is damaged."""
        path = self.folder / name
        try:
            return read(path) if path.is_file() else None
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error


@dataclass(frozen=True)
class Source:
    """All results of one path given.

    Args:
        path: as given.
        results: at least one, each with its folder.
    """

    path: Path
    results: list[Result]

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Find the results of a run, of a sweep or of all runs below a folder.

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
        if not results:
            raise ValueError(f"{path} is no run, and holds none: there is no metrics.json")
        return cls(path, results)

    @cached_property
    def jobs(self) -> dict[str, list[Result]]:
        """The results of each job of a sweep, by its folder's name; all, by "", of a single run."""
        if (self.path / "config.yaml").is_file():
            return {"": self.results}
        jobs: dict[str, list[Result]] = {}
        for result in self.results:
            assert result.folder
            jobs.setdefault(result.folder.relative_to(self.path).parts[0], []).append(result)
        return jobs

    @cached_property
    def best(self) -> str:
        """The job with the highest mean of `SCORES`, over its categories; the first of equals."""
        return max(self.jobs, key=lambda job: _score(self.jobs[job]))


def _score(results: Sequence[Result]) -> float:
    single = [result for result in results if result.category != POOLED]
    found = [r.metrics[name] for r in single for name in SCORES if name in r.metrics]
    return float(np.mean(found)) if found else -np.inf


def runs_in_detail(sources: Sequence[Source]) -> list[Run]:
    """All runs of each path that is a run, and those of the best job of each that is a sweep."""
    runs = []
    for source in sources:
        job = source.best
        results = [result for result in source.jobs[job] if result.category != POOLED]
        for result in results:
            assert result.folder
            parts = [str(source.path)] if len(sources) > 1 else []
            parts += [f"job {job}"] if job else []
            if len(results) > 1 or not parts:
                parts.append(result.category)
            runs.append(Run(", ".join(parts), result, result.folder))
    return runs


def comparable(sources: Sequence[Source]) -> list[Result]:
    """The results of all paths, those told apart that differ in nothing but where they are."""
    results = []
    for source in sources:
        keys = [str((r.category, r.settings, r.seeds)) for r in source.results]
        for result in source.results:
            assert result.folder
            own = result.folder if len(set(keys)) < len(keys) else source.path
            alone = len(sources) == 1 and own == source.path
            config = result.config if alone else {**result.config, "run": str(own)}
            results.append(replace(result, config=config))
    return results
