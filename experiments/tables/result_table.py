"""Tables of results: means over categories and seeds, beside published figures."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.files import write_csv
from experiments.tables.labels import value_text
from experiments.tables.results import POOLED, Result
from experiments.tables.text_table import TextTable
from experiments.tables.variants import distinguishing, numbered, variant_means, what_varies
from experiments.trust import DATA_MODULES

Reference = Mapping[str, Sequence[float | None]]
"""Published figures of one model: category or mean -> one figure a metric."""


@dataclass(frozen=True)
class Column:
    """How a metric is shown: multiplied by `scale`, rounded to `digits`."""

    title: str
    scale: float = 1
    digits: int = 3

    @property
    def heading(self) -> str:
        """The title, with the unit of what is multiplied by 100."""
        return f"{self.title}, %" if self.scale == 100 else self.title

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
    "cost/fit_s": Column("fit, seconds", 1, 1),
    "cost/image_s": Column("seconds an image"),
    "cost/state_gb": Column("state, GB"),
}
"""Metrics as the field prints them; others appear under their own names."""


def column_of(metric: str, largest: float = np.inf) -> Column:
    """How a metric is shown; a state of less than 0.1 GB, the largest there is, in MB."""
    if metric == "cost/state_gb" and largest < 0.1:
        return Column("state, MB", 1000, 1)
    return COLUMNS.get(metric, Column(metric))


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
    def of(cls, table: Mapping[str, Any], data: type | str | None = None) -> "Layout":
        """From the group `table` of a configuration.

        Args:
            table: the group.
            data: the data module's class; a name stands for one of this project's, and any other
                name for none, because a run folder may come from anybody.
        """
        target = DATA_MODULES.get(data) if isinstance(data, str) else data
        groups = getattr(target, "category_groups", {})
        known = getattr(target, "known_categories", ())
        metrics = list(table["metrics"])
        return cls(table["title"] or "", metrics, table["reference"], groups, known)


class ResultTable:
    """Results in rows and columns.

    One variant gets a row a category and mean; several of the same categories get a row each, and
    the means are their columns. Replicates of a variant, with other seeds, are averaged, with their
    standard error. A mean over categories is unweighted, as in the paper, within each seed.

    Args:
        results: of at least one run.
        layout: what to show; a metric that no result has is left out.

    Attributes:
        numbers: a row for each variant and category or mean. Its columns are what distinguishes
            the variants, `row`, `seeds` (their number), and for each metric its value, `_se`
            (standard error), `_reference` and `_difference`, in the unit shown.
    """

    def __init__(self, results: Sequence[Result], layout: Layout) -> None:
        self.layout = layout
        self.metrics = [m for m in layout.metrics if any(m in r.metrics for r in results)]
        self.categories = [c for c in dict.fromkeys(r.category for r in results) if c != POOLED]
        self.pooled = [POOLED] if any(r.category == POOLED for r in results) else []
        settings = what_varies(results)
        if "variant" in settings:  # a paper's table distinguishes its rows by little
            ran = settings.drop(columns="variant")
            settings = settings[[*distinguishing(ran), "variant"]]
        self.keys = list(settings.columns)
        variants = numbered(settings)
        self.several = variants.nunique() > 1
        self.model = _describe(results[0], self.keys)
        present = pd.Series([r.category for r in results]).groupby(variants).nunique()
        self.alike = bool((present == len([*self.categories, *self.pooled])).all())
        self.means = self._means()
        self.numbers = pd.DataFrame(self._rows(results, settings, variants))

    def write(self, folder: Path) -> None:
        """Write table.md and table.tex as shown, and table.csv with `numbers`."""
        self.text().write(folder / "table")
        write_csv(self.numbers, folder / "table.csv")

    def text(self) -> TextTable:
        """The table as shown, with what a reader has to know."""
        seeds = int(self.numbers["seeds"].max())
        notes = [self.model] if self.model else []
        notes += [f"Mean ± standard error over {seeds} seeds."] if seeds > 1 else []
        if self.means and (all_there_are := len(self.layout.known)) > len(self.categories):
            notes.append(f"{len(self.categories)} of {all_there_are} categories.")
        if self.pooled:
            notes.append("all: the mean of the rows above; pooled: all their images at once.")
        rule = len(self.categories) - 1 if self.means and not self.several else None
        return TextTable(self.layout.title, self._cells(), notes, rule)

    def _means(self) -> dict[str, list[str]]:
        """Categories of each mean by its name, in which a mean of some says of how many."""
        means: dict[str, list[str]] = {}
        if len(self.categories) == 1 or not self.alike:
            return means
        for name, whole in {**self.layout.groups, "all": self.layout.known}.items():
            some = [c for c in self.categories if name == "all" or c in whole]
            # A group of all there is would repeat the mean of all.
            if some and (name == "all" or some != self.categories):
                part = f" ({len(some)} of {len(whole)})" if len(some) < len(whole) else ""
                means[name + part] = some
        return means

    def _rows(
        self, results: Sequence[Result], settings: pd.DataFrame, variants: pd.Series
    ) -> Iterator[dict[str, Any]]:
        """The rows of each variant: its categories, the means, all images at once."""
        members = {c: [c] for c in self.categories} | self.means | {c: [c] for c in self.pooled}
        means = {}
        for name, categories in members.items():
            chosen = [i for i, r in enumerate(results) if r.category in categories]
            means[name] = variant_means(
                [results[i] for i in chosen], variants.iloc[chosen], self.metrics
            )
        for variant in variants.unique():
            first = variants.tolist().index(variant)
            reference = self.layout.reference.get(results[first].variant, {})
            for name in (name for name, some in means.items() if variant in some.index):
                found = means[name].loc[variant]
                row = {**settings.iloc[first], "row": name}
                row["seeds"] = max(1, int(found[:, "count"].max()))
                for metric in self.metrics:
                    mean, error = found[metric][["mean", "sem"]] * column_of(metric).scale
                    row |= {metric: mean, f"{metric}_se": error}
                    if reference:
                        published = self._published(reference, metric, name, members[name])
                        row[f"{metric}_reference"] = published
                        row[f"{metric}_difference"] = mean - published
                yield row

    def _published(
        self, reference: Reference, metric: str, name: str, categories: list[str]
    ) -> float:
        """The published figure for a row, NaN if there is none.

        Beside a mean of some categories stands the published mean of the same ones, if it can be
        had. What a model costs is the same whatever the category.
        """

        def figure(row: str) -> float:
            figures = reference.get(row) or [None] * len(self.layout.metrics)
            value = figures[list(self.layout.metrics).index(metric)]
            return np.nan if value is None else value

        if metric.startswith("cost/"):
            return figure("all")
        if " (" in name:  # a mean of some
            return float(np.mean([figure(category) for category in categories]))
        return figure(name)

    def texts(self, rows: pd.DataFrame, label: str = "") -> pd.DataFrame:
        """Some rows of `numbers` as text: under short names, then metrics, each under a label.

        A metric has columns for the published figures and the differences, if there are any.
        """
        texts: dict[tuple[str, str], Any] = {}
        for metric in self.metrics:
            column = column_of(metric, self.numbers[metric].max())
            scale = column.scale / column_of(metric).scale
            top = f"{label}, {column.title}" if label else column.title
            shown = rows.filter(regex=f"^{re.escape(metric)}(_|$)") * scale
            texts[top, ""] = list(map(column.show, shown[metric], shown[f"{metric}_se"]))
            if f"{metric}_reference" in shown and shown[f"{metric}_reference"].notna().any():
                texts[top, "paper"] = list(map(column.show, shown[f"{metric}_reference"]))
                differences = shown[f"{metric}_difference"]
                texts[top, "diff"] = [column.show(value, sign="+") for value in differences]
        return pd.DataFrame(texts)

    def _cells(self) -> pd.DataFrame:
        """The figures as text, with columns as `TextTable` wants them."""
        wide = self.several and self.alike
        names = [{"variant": "paper's"}.get(k, k.removesuffix("._target_")) for k in self.keys]
        settings = [[value_text(key, v) for v in self.numbers[key]] for key in self.keys]
        if not wide:
            index = pd.MultiIndex.from_arrays(
                [*settings, self.numbers["row"]], names=[*names, None]
            )
            return self.texts(self.numbers).set_index(index)
        labels = [*(self.means or self.categories), *self.pooled]
        of = [self.numbers["row"] == label for label in labels]
        index = pd.MultiIndex.from_arrays([np.array(s)[of[0]] for s in settings], names=names)
        several = len(labels) > 1
        parts = [
            self.texts(self.numbers[rows], label if several else "")
            for label, rows in zip(labels, of, strict=True)
        ]
        return pd.concat(parts, axis=1).set_index(index)


def _describe(result: Result, keys: Sequence[str]) -> str:
    """What the table's keys do not say of the models: backbone, d, and whose figures are beside."""
    d, clipped = (result.config.get(f"reduction.{key}") for key in ("d", "clip"))
    said = {
        "backbone.name": result.config.get("backbone.name", "an unnamed backbone"),
        "reduction.d": f"d = {d}{', or all there are' * bool(clipped)}" if d else "all channels",
        "variant": f"paper: {result.variant}" if result.variant else "",
    }
    return ", ".join(text for key, text in said.items() if text and key not in keys)
