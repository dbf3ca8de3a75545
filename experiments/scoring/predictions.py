"""The tables and the .json file of predictions, written as they come."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from heapq import nlargest
from pathlib import Path
from typing import Any

from experiments.files import cell, naming, replacing
from experiments.scoring.verdicts import Scored, Verdicts
from padim import Region

COLUMNS = {
    "scores.csv": ("path", "score", "p_value", "verdict", "regions"),
    "regions.csv": ("path", "region", *Region._fields),
    "skipped.csv": ("path", "reason"),
}

HIGHEST = 5
"""Scores that are logged at the end."""


class PredictionFiles:
    """Writes scores.csv, regions.csv, skipped.csv and predictions.json into a run folder.

    A .csv file begins with its first row and can be read at any time; the .json file is whole when
    the block ends. Nothing is kept in memory but what is skipped.

    Args:
        folder: of the run.
        model: path of the model.
        verdicts: have the thresholds.

    Attributes:
        counts: how many have each verdict, or None.
        highest: what has the highest scores, from the top.
        unread: files that could not be read, and why.
        others: files that nobody expects to be read, by path and reason.
    """

    def __init__(self, folder: Path, model: str, verdicts: Verdicts) -> None:
        self.folder, self.verdicts = folder, verdicts
        self.counts: Counter[str | None] = Counter()
        self.highest: list[Scored] = []
        self.unread: dict[str, str] = {}
        self.others: list[tuple[str, str]] = []
        for name in COLUMNS:
            (folder / name).unlink(missing_ok=True)
        head = {
            "model": model,
            "threshold": verdicts.threshold,
            "pixel_threshold": verdicts.pixel_threshold,
            "extent_threshold": verdicts.extent,
            "false_alarm_rate": verdicts.rate,
        }
        self._head = json.dumps(head)[:-1] + ', "predictions": ['
        self._whole = ExitStack()

    def __enter__(self) -> "PredictionFiles":
        path = self._whole.enter_context(replacing(self.folder / "predictions.json"))
        self._json = self._whole.enter_context(path.open("w", encoding="ascii"))
        self._json.write(self._head)
        return self

    def __exit__(self, *_: object) -> None:
        rows = [*self.unread.items(), *self.others]
        skipped = [dict(zip(COLUMNS["skipped.csv"], row, strict=True)) for row in rows]
        with self._whole:
            self._json.write(f'\n], "skipped": {json.dumps(skipped)}}}\n')

    def write(self, scored: list[Scored]) -> None:
        """Add the outcome of images or frames."""
        scores, regions, entries = [], [], []
        for one in scored:
            found = None if one.regions is None else [region._asdict() for region in one.regions]
            count = None if one.regions is None else len(one.regions)
            scores.append((one.path, one.score, one.p_value, one.verdict, count))
            regions += [(one.path, i, *region) for i, region in enumerate(one.regions or [], 1)]
            entries.append(json.dumps({**one._asdict(), "regions": found}))
        self._append("scores.csv", scores)
        self._append("regions.csv", regions)
        comma = "," if self.counts else ""
        with naming(self.folder / "predictions.json"):
            self._json.write(comma + "\n" + ",\n".join(entries))
        self.counts.update(one.verdict for one in scored)
        self.highest = nlargest(HIGHEST, [*self.highest, *scored], key=lambda one: one.score)

    def retry(self, paths: Iterable[Path]) -> None:
        """Forget that files could not be read: they may have been incomplete."""
        for path in paths:
            self.unread.pop(str(path), None)

    def skip(self, files: list[tuple[str, str]]) -> None:
        """Add files that cannot be read, by path and reason."""
        self.unread.update(files)
        self._append("skipped.csv", files)

    def pass_over(self, files: list[tuple[str, str]]) -> None:
        """Add files that nobody expects to be read, by path and reason."""
        self.others += files
        self._append("skipped.csv", files)

    def _append(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if not rows:
            return
        # Opened each time, so that another program can take what is there and move it away.
        # A file's name can be what no encoding has.
        path = self.folder / name
        with (
            naming(path),
            path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            if not file.tell():
                writer.writerow(COLUMNS[name])
            writer.writerows([cell(value) for value in row] for row in rows)
