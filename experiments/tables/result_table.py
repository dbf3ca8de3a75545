"""Tables of results: means over categories and draws, beside published figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.files import cell
from experiments.tables.results import POOLED, Result
from experiments.tables.text_table import TextTable
from experiments.tables.variants import telling, what_varies
from experiments.trust import DATA_MODULES

Reference = Mapping[str, Sequence[float | None]]
"""Published figures of one model: category or mean -> one figure a metric."""


@dataclass(frozen=True)
class Column:
    """How a metric is shown: multiplied by `scale`, rounded to `digits`."""

    title: str
    scale: float = 1
    digits: int = 3

    def show(self, value: float, error: float = np.nan, sign: str = "") -> str:
        """Such as 97.8, 97.8 ± 0.1 or, with sign "+", +0.3; nothing for what is not defined."""
        if np.isnan(value):
            return ""
        text = f"{value:{sign}.{self.digits}f}"
        return text if np.isnan(error) else f"{text} ± {error:.{self.digits}f}"


COLUMNS = {
    "image/auroc": Column("image AUROC", 100, 1),
    "image/ap": Column("image AP", 100, 1),
    "image/f1_max": Column("image F1", 100, 1),
    "pixel/auroc": Column("pixel AUROC", 100, 1),
    "pixel/ap": Column("pixel AP", 100, 1),
    "pixel/f1_max": Column("pixel F1", 100, 1),
    "pixel/pro": Column("PRO", 100, 1),
    "cost/image_s": Column("seconds an image"),
    "cost/state_gb": Column("state, GB"),
}
"""Metrics as the field prints them; others appear under their own names."""


@dataclass(frozen=True)
class Layout:
    """What a table shows.

    Args:
        title: a line above; none if empty.
        metrics: names of the metrics, in order.
        reference: published figures by the name of the variant, in the unit shown (percent,
            seconds, GB).
        groups: name of a mean -> its categories; the mean of all is always there.
        known: all categories of the data set, so that a mean of fewer can say so.
    """

    title: str = ""
    metrics: Sequence[str] = tuple(COLUMNS)
    reference: Mapping[str, Reference] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    known: Sequence[str] = ()

    @classmethod
    def of(cls, table: Mapping[str, Any], data: str) -> "Layout":
        """From the group `table` of a configuration, and the data module's class by its name."""
        target = DATA_MODULES.get(data)  # by name: a run folder may come from anybody
        return cls(
            table["title"] or "",
            list(table["metrics"]),
            table["reference"],
            getattr(target, "category_groups", {}),
            getattr(target, "known_categories", ()),
        )


class ResultTable:
    """Results in rows and columns.

    One variant gets a row a category and mean; several of the same categories get a row each, and
    the means are their columns. Draws of a variant (see `Result`) are averaged, with their
    standard error. A mean over categories is unweighted, as in the paper, within each draw.

    Args:
        results: of at least one run.
        layout: what to show; a metric that no result has is left out.

    Attributes:
        numbers: a row for each variant and category or mean. Its columns are what tells the
            variants apart, `row`, `draws`, and for each metric its value, `_se` (standard error),
            `_reference` and `_difference`, in the unit shown.
    """

    def __init__(self, results: Sequence[Result], layout: Layout) -> None:
        self.layout = layout
        self.metrics = [m for m in layout.metrics if any(m in r.metrics for r in results)]
        self.categories = [c for c in dict.fromkeys(r.category for r in results) if c != POOLED]
        self.pooled = [POOLED] if any(r.category == POOLED for r in results) else []
        keys = what_varies(results)
        if "variant" in keys:  # names that say it all, if they are chosen well
            keys = keys[telling(keys)]
        self.keys = list(keys.columns)
        variants: dict[tuple[Any, ...], list[Result]] = {}
        for variant, result in zip(keys.to_numpy().tolist(), results, strict=True):
            variants.setdefault(tuple(variant), []).append(result)
        self.several = len(variants) > 1
        self.model = "" if self.several else _describe(results[0])
        self.alike = all(
            {r.category for r in members} == {*self.categories, *self.pooled}
            for members in variants.values()
        )
        self.means = self._means()
        self.numbers = pd.DataFrame(
            {**dict(zip(self.keys, variant, strict=True)), **row}
            for variant, members in variants.items()
            for row in self._rows(members)
        )

    def write(self, folder: Path) -> None:
        """Write table.md and table.tex as shown, and table.csv with `numbers`."""
        self.text().write(folder / "table")
        self.numbers.map(cell).to_csv(folder / "table.csv", index=False)

    def text(self) -> TextTable:
        """The table as shown, with what a reader has to know."""
        draws = int(self.numbers["draws"].max())
        notes = [self.model] if self.model else []
        notes += [f"Mean ± standard error over {draws} draws."] if draws > 1 else []
        missing = [c for c in self.layout.known if c not in self.categories]
        if missing and self.means:
            notes.append(f"Without {', '.join(missing)}.")
        if self.pooled:
            notes.append("all: the mean of the rows above; pooled: all their images at once.")
        rule = len(self.categories) - 1 if self.means and not self.several else None
        return TextTable(self.layout.title, self._cells(), notes, rule)

    def _means(self) -> dict[str, list[str]]:
        """Name of each mean over categories -> those of its categories that have results."""
        if len(self.categories) == 1 or not self.alike:
            return {}
        groups = {
            name: [c for c in self.categories if c in members]
            for name, members in self.layout.groups.items()
        }
        # A group of all there is would repeat the mean of all.
        parts = {name: some for name, some in groups.items() if some and some != self.categories}
        return {**parts, "all": self.categories}

    def _rows(self, results: list[Result]) -> Iterator[dict[str, Any]]:
        """The rows of one variant: its categories, then the means."""
        values = pd.DataFrame(
            {"draw": str(r.seeds), "category": r.category, **r.metrics} for r in results
        ).set_index(["draw", "category"])
        values = values[~values.index.duplicated()]  # a job may be asked for twice
        reference = self.layout.reference.get(results[0].variant, {})
        present = {r.category: [r.category] for r in results}
        order = [*self.categories, *self.means, *self.pooled]
        rows = present | self.means
        for name, categories in ((name, rows[name]) for name in order if name in rows):
            row: dict[str, Any] = {"row": self._label(name)}
            for metric in self.metrics:
                by_draw = values[metric].unstack()[categories].mean(axis=1, skipna=False)
                draws = by_draw * column_of(metric).scale
                row |= {"draws": len(draws), metric: draws.mean(), f"{metric}_se": draws.sem()}
                if reference:
                    published, alike = self._published(reference, metric, name, categories)
                    row[f"{metric}_reference"] = published
                    row[f"{metric}_difference"] = draws.mean() - published if alike else np.nan
            yield row

    def _label(self, name: str) -> str:
        """A mean of some of its categories says of how many."""
        if name not in self.means:
            return name
        whole = self.layout.known if name == "all" else self.layout.groups[name]
        some = len(self.means[name])
        return name if some >= len(whole) else f"{name} ({some} of {len(whole)})"

    def _published(
        self, reference: Reference, metric: str, name: str, categories: list[str]
    ) -> tuple[float, bool]:
        """The published figure for a row, NaN if there is none, and whether it is for the same.

        Beside a mean of some categories stands the published mean of the same ones, if it can be
        had. What a model costs is the same whatever the category.
        """

        def figure(row: str) -> float:
            figures = reference.get(row) or [None] * len(self.layout.metrics)
            value = figures[list(self.layout.metrics).index(metric)]
            return np.nan if value is None else value

        if metric.startswith("cost/"):
            return figure("all"), True
        if self._label(name) == name:
            return figure(name), True
        same = float(np.mean([figure(category) for category in categories]))
        return (figure(name), False) if np.isnan(same) else (same, True)

    def _cells(self) -> pd.DataFrame:
        """The figures as text, with columns as `TextTable` wants them."""
        if self.several and self.alike:
            labels = [self._label(name) for name in self.means] or self.categories
            labels = [*labels, *self.pooled]
            blocks = {
                label: self.numbers[self.numbers["row"] == label].set_index(self.keys)
                for label in labels
            }
        else:
            index = [*self.keys, "row"] if self.several else ["row"]
            names = [*self.keys, None] if self.several else [None]
            blocks = {"": self.numbers.set_index(index).rename_axis(names)}
        texts: dict[tuple[str, str], list[str]] = {}
        for label, block in blocks.items():
            for metric in self.metrics:
                column = column_of(metric)
                top = f"{label}, {column.title}" if len(blocks) > 1 else column.title
                texts[top, ""] = list(map(column.show, block[metric], block[f"{metric}_se"]))
                if f"{metric}_reference" in block and block[f"{metric}_reference"].notna().any():
                    difference = block[f"{metric}_difference"]
                    texts[top, "paper"] = list(map(column.show, block[f"{metric}_reference"]))
                    texts[top, "diff"] = [column.show(value, sign="+") for value in difference]
        return pd.DataFrame(texts, index=next(iter(blocks.values())).index)


def column_of(metric: str) -> Column:
    """How a metric is shown."""
    return COLUMNS.get(metric, Column(metric))


def _describe(result: Result) -> str:
    """The model in a line, and whose figures stand beside it."""
    channels = result.config.get("reduction.d")
    name = result.config.get("backbone.name", "an unnamed backbone")
    model = f"{name}, {f'd = {channels}' if channels else 'all channels'}"
    return f"{model}; paper: {result.variant}" if result.variant else model
