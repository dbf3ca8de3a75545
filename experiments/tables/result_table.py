"""Tables of results: means over categories and seeds, beside published figures or a baseline."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.files import write_csv
from experiments.tables.differences import auroc_interval, difference_notes, pairs, signed_rank_p
from experiments.tables.factors import chosen_factors, find_variant
from experiments.tables.labels import value_text
from experiments.tables.ranks import rank_notes
from experiments.tables.results import POOLED, Result
from experiments.tables.text_table import TextTable
from experiments.tables.variants import (
    distinguishing,
    numbered,
    over_seeds,
    seed_values,
    seeds_text,
    what_varies,
)
from experiments.trust import DATA_MODULES

Reference = Mapping[str, Sequence[float | None]]
"""Published figures of one model: category or mean -> one figure a metric."""


@dataclass(frozen=True)
class Column:
    """The look of a metric: multiplied by `scale`, rounded to `digits`."""

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
    "pixel/aupimo": Column("AUPIMO", 100, 1),
    "image/recall_at_far": Column("image recall at FAR", 100, 1),
    "pixel/recall_at_far": Column("pixel recall at FAR", 100, 1),
    "select/pro": Column("PRO, made defects", 100, 1),
    "cost/fit_s": Column("fit, seconds", 1, 1),
    "cost/image_s": Column("seconds an image"),
    "cost/state_gb": Column("state, GB"),
}
"""Metrics as the field prints them; others appear under their own names."""

SCORES = ("image/auroc", "pixel/auroc", "pixel/pro")
"""The metrics that are drawn and ranked, where the table has one of them; else its first three."""

SPREADS = {"sem": ("sem", "se", "standard error"), "sd": ("std", "sd", "standard deviation")}
"""Of a mean over seeds: its name in pandas, in columns of table.csv, and in words."""


def main_scores(metrics: Sequence[str]) -> list[str]:
    """Those of a table's metrics by which variants are compared first."""
    return [metric for metric in SCORES if metric in metrics] or list(metrics)[:3]


def column_of(metric: str, values: pd.Series | None = None) -> Column:
    """The look of a metric, given its values; states in MB where all, or the least, are small."""
    state = values if metric == "cost/state_gb" else None
    if state is not None and (state.max() < 0.1 or state.min() < 0.01):
        return Column("state, MB", 1000, 1)
    return COLUMNS.get(metric, Column(metric))


@dataclass(frozen=True)
class Layout:
    """The contents of a table.

    Args:
        title: a line above; none if empty.
        metrics: names of the metrics, in order.
        reference: published figures by the name of the variant, in the unit shown (percent,
            seconds, GB).
        groups: name of a mean -> its categories; the mean of all is always there.
        known: all categories of the data set, so that a mean of fewer can say so.
        by: settings that make the rows, as of `chosen_factors`; empty for all that vary.
        baseline: settings of the row that others are compared with, as of `find_variant`.
        spread: beside a mean over seeds, one of `SPREADS`.
    """

    title: str = ""
    metrics: Sequence[str] = tuple(COLUMNS)
    reference: Mapping[str, Reference] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    known: Sequence[str] = ()
    by: Sequence[str] = ()
    baseline: str = ""
    spread: str = "sem"

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
        # Runs of earlier versions lack some keys.
        given = {key: table[key] for key in ("by", "baseline", "spread") if table.get(key)}
        return cls(table["title"] or "", metrics, table["reference"], groups, known, **given)


class ResultTable:
    """Results in rows and columns.

    One variant gets a row a category and mean; several of the same categories get a row each, and
    the means are their columns. Replicates of a variant, with other seeds, are averaged, with their
    spread. A mean over categories is unweighted, as in the paper, within each seed.

    Args:
        results: of at least one run.
        layout: what to show; a metric that no result has is left out.

    Attributes:
        numbers: a row for each variant and category or mean. Its columns are what distinguishes
            the variants, `row`, `seeds` (their number), and for each metric its value, `_se`
            (standard error) or `_sd` and, in the unit shown, `_reference` and `_difference` of
            published figures; `_to_baseline`, `_pairs` and `_p` of the baseline, with `_low` and
            `_high` where test images are resampled.

    Raises:
        ValueError: the layout's `by` or `baseline` names what there is not.
    """

    def __init__(self, results: Sequence[Result], layout: Layout) -> None:
        self.layout = layout
        self.metrics = [m for m in layout.metrics if any(m in r.metrics for r in results)]
        self.categories = [c for c in dict.fromkeys(r.category for r in results) if c != POOLED]
        self.pooled = [POOLED] if any(r.category == POOLED for r in results) else []
        settings = every = what_varies(results)
        if layout.by and not every.empty:
            settings = every[chosen_factors(every, layout.by)]
        elif "variant" in settings and layout.reference:  # a paper's rows differ by little
            ran = settings.drop(columns="variant")
            settings = settings[[*distinguishing(ran), "variant"]]
        elif "variant" in settings:
            settings = settings[distinguishing(settings)]
        self.keys = list(settings.columns)
        variants = numbered(settings)
        self.several = variants.nunique() > 1
        inside = every.groupby(variants).nunique().max() > 1
        self.averaged = [key for key in map(str, every) if layout.by and inside[key]]
        self.model = _describe(results[0], list(map(str, every)))
        present = pd.Series([r.category for r in results]).groupby(variants).nunique()
        self.alike = bool((present == len([*self.categories, *self.pooled])).all())
        self.means = self._means()
        rows = settings[~variants.duplicated()].reset_index(drop=True)
        self.baseline = None
        if layout.baseline and self.several:
            self.baseline = find_variant(rows, layout.baseline)
        self.files = {
            (variant, seeds_text(r), r.category): r.folder and r.folder / "predictions.csv"
            for variant, r in zip(variants, results, strict=True)
        }
        values = seed_values(results, variants, self.metrics, numbered(every))
        references = [results[i].variant for i in variants.drop_duplicates().index]
        self.numbers = pd.DataFrame(self._rows(rows, values, references))

    def heading(self, key: str) -> str:
        """The title of a setting's column."""
        published = key == "variant" and self.layout.reference
        return "paper's" if published else key.removesuffix("._target_")

    def write(self, folder: Path) -> None:
        """Write table.md and table.tex as shown, and table.csv with `numbers`."""
        self.text().write(folder / "table")
        write_csv(self.numbers, folder / "table.csv")

    def text(self) -> TextTable:
        """The table as shown, with what a reader has to know."""
        rule = len(self.categories) - 1 if self.means and not self.several else None
        cells, best = self._cells()
        return TextTable(self.layout.title, cells, self.notes, rule, best)

    @property
    def notes(self) -> list[str]:
        """Of what the figures are, and how they were compared."""
        seeds = int(self.numbers["seeds"].max())
        notes = [self.model] if self.model else []
        if self.averaged:
            notes.append(f"Averaged over {', '.join(self.averaged)}.")
        if seeds > 1:
            notes.append(f"Mean ± {SPREADS[self.layout.spread][2]} over {seeds} seeds.")
        if self.means and (all_there_are := len(self.layout.known)) > len(self.categories):
            notes.append(f"{len(self.categories)} of {all_there_are} categories.")
        if self.pooled:
            notes.append("all: the mean of the rows above; pooled: all their images at once.")
        if self.baseline is not None:
            shown = self.numbers[self.numbers["row"].isin(self._shown)]
            notes += difference_notes(shown, self.layout.baseline)
        if self.several and self.alike:
            single = self.numbers[self.numbers["row"].isin(self.categories)]
            for metric in main_scores([m for m in self.metrics if not m.startswith("cost/")]):
                scores = single.pivot(index="row", columns=self.keys, values=metric)
                notes += rank_notes(scores, column_of(metric).title)
        return notes

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
        self, settings: pd.DataFrame, values: pd.DataFrame, references: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """The rows of each variant: its categories, the means, all images at once."""
        members = {c: [c] for c in self.categories} | self.means | {c: [c] for c in self.pooled}
        spread, suffix, _ = SPREADS[self.layout.spread]
        of_category = values.index.get_level_values("category")
        chosen = {name: values[of_category.isin(some)] for name, some in members.items()}
        means = {name: over_seeds(some, spread) for name, some in chosen.items()}
        for variant in settings.index:
            reference = self.layout.reference.get(references[variant], {})
            for name in (name for name, some in means.items() if variant in some.index):
                found = means[name].loc[variant]
                row = {**settings.loc[variant], "row": name}
                row["seeds"] = max(1, int(found[:, "count"].max()))
                both = None
                if self.baseline not in (None, variant):
                    flat = chosen[name].reset_index()
                    both = pairs(*(flat[flat["variant"] == v] for v in (variant, self.baseline)))
                for metric in self.metrics:
                    mean, error = found[metric][["mean", spread]] * column_of(metric).scale
                    row |= {metric: mean, f"{metric}_{suffix}": error}
                    if reference:
                        published = self._published(reference, metric, name, members[name])
                        row[f"{metric}_reference"] = published
                        row[f"{metric}_difference"] = mean - published
                    if both is not None:
                        row |= self._difference(metric, both, variant)
                yield row

    def _difference(self, metric: str, both: pd.DataFrame, variant: int) -> dict[str, float]:
        """The columns of a row that compare a metric with the baseline's."""
        scale = column_of(metric).scale
        differences = (both[metric] - both[f"{metric}_base"]).dropna()
        row = {"to_baseline": differences.mean() * scale, "pairs": len(differences)}
        row["p"] = signed_rank_p(differences)
        if metric == "image/auroc" and len(differences) == len(self.categories) == 1:
            pair = both.loc[differences.index[0]]
            keys = (variant, pair["seeds"]), (self.baseline, pair["seeds_base"])
            files = [self.files.get((*key, pair["category"])) for key in keys if not self.averaged]
            if files and (interval := auroc_interval(*files)):
                row["low"], row["high"] = (scale * end for end in interval)
        return {f"{metric}_{name}": value for name, value in row.items()}

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

        A metric has columns for the published figures, the differences to them and those to the
        baseline, if there are any.
        """
        texts: dict[tuple[str, str], Any] = {}
        suffix = SPREADS[self.layout.spread][1]
        for metric in self.metrics:
            column, scale = self._column(metric)
            top = f"{label}, {column.title}" if label else column.title
            shown = rows.filter(regex=f"^{re.escape(metric)}(_|$)") * scale
            texts[top, ""] = list(map(column.show, shown[metric], shown[f"{metric}_{suffix}"]))
            if f"{metric}_reference" in shown and shown[f"{metric}_reference"].notna().any():
                texts[top, "paper"] = list(map(column.show, shown[f"{metric}_reference"]))
                differences = shown[f"{metric}_difference"]
                texts[top, "diff"] = [column.show(value, sign="+") for value in differences]
            if self.baseline is not None:
                ends = [f"{metric}_{end}" for end in ("to_baseline", "low", "high")]
                parts = shown.reindex(columns=ends).assign(p=rows[f"{metric}_p"]).to_numpy()
                texts[top, "to baseline"] = [_compared(column, *part) for part in parts]
        return pd.DataFrame(texts)

    def best(self, rows: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
        """The texts of some rows that are the best of their column, or equal to it as shown.

        Of one variant on several categories the best is but the easiest: none.
        """
        best = pd.DataFrame(False, texts.index, texts.columns)
        values = self.numbers[self.metrics].copy()
        for metric in self.metrics:
            column, scale = self._column(metric)
            sign = -1 if metric.startswith("cost/") else 1
            values[metric] = sign * (values[metric] * scale).round(column.digits)
        of_row = values.groupby(self.numbers["row"])
        highest = values.eq(of_row.transform("max")) & (of_row.transform("count") > 1)
        best.loc[:, best.columns.get_level_values(1) == ""] = highest.loc[rows.index].to_numpy()
        return best

    def _column(self, metric: str) -> tuple[Column, float]:
        """The look of a metric, and what its `numbers` are multiplied by for it."""
        column = column_of(metric, self.numbers[metric])
        return column, column.scale / column_of(metric).scale

    @property
    def _shown(self) -> list[str]:
        """The rows of `numbers` that the table shows: means of several variants stand for all."""
        wide = self.several and self.alike
        return [*((wide and self.means) or [*self.categories, *self.means]), *self.pooled]

    def _cells(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The figures as text, with columns as `TextTable` wants them, and which are the best."""
        names = list(map(self.heading, self.keys))
        settings = [_distinct_texts(self.numbers[key]) for key in self.keys]
        if not (self.several and self.alike):
            index = pd.MultiIndex.from_arrays(
                [*settings, self.numbers["row"]], names=[*names, None]
            )
            cells = self.texts(self.numbers)
            return cells.set_index(index), self.best(self.numbers, cells)
        of = {label: self.numbers[self.numbers["row"] == label] for label in self._shown}
        first = self.numbers["row"] == self._shown[0]
        index = pd.MultiIndex.from_arrays([np.array(s)[first] for s in settings], names=names)
        parts = [self.texts(rows, label if len(of) > 1 else "") for label, rows in of.items()]
        best = [self.best(rows, part) for rows, part in zip(of.values(), parts, strict=True)]
        return pd.concat(parts, axis=1).set_index(index), pd.concat(best, axis=1)


def _distinct_texts(setting: pd.Series) -> list[str]:
    """Values of a setting under short names, unless two would be the same."""
    short = setting.map(lambda value: value_text(setting.name, value))
    return list(short if short.nunique() == setting.nunique() else setting)


def _compared(column: Column, value: float, low: float, high: float, p: float) -> str:
    """A difference with its p or interval, such as "+0.3 (p = 0.03)" or "+0.3 [-0.1, +0.7]"."""
    text = column.show(value, sign="+")
    if not np.isnan(low):
        return f"{text} [{column.show(low, sign='+')}, {column.show(high, sign='+')}]"
    return text if np.isnan(p) else f"{text} (p = {p:.2g})"


def _describe(result: Result, keys: Sequence[str]) -> str:
    """What the table's keys do not say of the models: backbone, d, and whose figures are beside."""
    d, clipped = (result.config.get(f"reduction.{key}") for key in ("d", "clip"))
    said = {
        "backbone.name": result.config.get("backbone.name", "an unnamed backbone"),
        "reduction.d": f"d = {d}{', or all there are' * bool(clipped)}" if d else "all channels",
        "variant": f"paper: {result.variant}" if result.variant else "",
    }
    return ", ".join(text for key, text in said.items() if text and key not in keys)
