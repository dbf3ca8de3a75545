"""The page itself: tables, figures and pictures put into the template."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from omegaconf import OmegaConf
from plotly.offline import get_plotlyjs

from experiments.drawing.pictures import COLORMAP
from experiments.report.comparison import comparisons
from experiments.report.figures import curve_figures, histogram
from experiments.report.runs import Run
from experiments.tables.labels import value_text
from experiments.tables.result_table import Column, Layout, ResultTable, column_of
from experiments.tables.results import Result
from experiments.tables.variants import SCORES, what_varies
from padim.curve import auroc, pack, score_curve

COSTS = ("cost/fit_s", "cost/image_s", "cost/state_gb")

TILES = (*SCORES, "image/f1_max", "cost/image_s", "cost/state_gb")

COUNTS = {
    "tp": ("found", "anomalous images with a score of at least the threshold"),
    "fn": ("missed", "anomalous images below the threshold"),
    "fp": ("false alarms", "normal images with a score of at least the threshold"),
    "tn": ("passed", "normal images below the threshold"),
    "recall": ("recall", "share of the anomalous images that is found"),
    "precision": ("precision", "share of the images found that is anomalous"),
    "pixel_recall": ("pixels: recall", "share of the anomalous pixels that is found"),
    "pixel_precision": ("precision", "share of the pixels found that is anomalous"),
    "pixel_alarms": ("false", "share of the normal pixels at or above the threshold"),
}
"""What is counted at the threshold: its name on the page, and what that means."""

MARKS = {
    "threshold/image": ("of the model, images", "as its fit or padim calibrate has set it"),
    "threshold/pixel": ("of the model, pixels", "as its fit or padim calibrate has set it"),
    "image/f1_max_threshold": ("best F1, images", "known only where test images are labelled"),
    "pixel/f1_max_threshold": ("best F1, pixels", "known only where test images are labelled"),
}
"""Thresholds to begin with or to go to: their names on the page, and what they are."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what it is sorted by, and its classes."""

    text: str
    value: Any
    classes: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted, but for its means; each row has a cell for each column."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    means: list[list[Cell]] = field(default_factory=list)


def render(
    title: str,
    subtitle: str,
    results: Sequence[Result],
    runs: Sequence[Run],
    notes: Sequence[str] = (),
) -> str:
    """The page as HTML.

    Args:
        title, subtitle: its heading, and what stands below, before the date.
        results: of all runs; they make the tables and the comparison.
        runs: those shown in detail.
        notes: what to know about the choice of these.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    here = Path(__file__).parent
    summary = Summary(results)
    varying = what_varies(results, seeds=True)
    return environment.get_template("template.html").render(
        title=title,
        subtitle=subtitle,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        style=Markup((here / "report.css").read_text()),
        script=Markup((here / "report.js").read_text()),
        # The whole of it: the package has no smaller bundle, and one of our own would have to be
        # kept in step with the figures that the package writes.
        plotly=Markup(get_plotlyjs()),
        colormap=_json((255 * COLORMAP(np.arange(256))[:, :3]).round().astype(int).tolist()),
        tiles=summary.tiles,
        tables=summary.tables,
        comparisons=[
            {
                "title": one.title,
                "note": one.note,
                "figures": {name: _figure(figure) for name, figure in one.figures.items()},
            }
            for one in comparisons(results, runs)
        ],
        notes=notes,
        counts=COUNTS,
        runs=[_detail(run) for run in runs],
        differences={
            key: [value_text(key, value) for value in dict.fromkeys(varying[key])]
            for key in varying
        },
        overrides=runs[0].overrides if all(r.overrides == runs[0].overrides for r in runs) else [],
    )


class Summary:
    """The results in tables, and those of a single variant in large figures.

    Args:
        results: of all runs.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        assert results[0].folder
        config = OmegaConf.load(results[0].folder / "config.yaml")
        layout = Layout.of(config.table, config.data._target_) if "table" in config else Layout()
        metrics = [*dict.fromkeys([*layout.metrics, *COSTS])]
        self.table = ResultTable(results, replace(layout, metrics=metrics, reference={}))
        rows = self.table.numbers
        is_mean = rows["row"].str.partition(" (")[0].isin(list(self.table.means))
        self.means, self.single = rows[is_mean], rows[~is_mean]

    @property
    def tiles(self) -> list[tuple[str, str]]:
        """Name and figure of the most telling metrics; none where there are several variants."""
        if self.table.several:
            return []
        row = (self.single if self.means.empty else self.means).iloc[-1]
        return [
            (column_of(name).title, column_of(name).show(row[name]))
            for name in TILES
            if name in self.table.metrics
        ]

    @property
    def tables(self) -> list[Table]:
        """A row for each category, or for each variant, whose categories follow by themselves."""
        caption = "Metrics in percent, costs in seconds and gigabytes"
        if not self.table.several:
            return [self._table(caption, self.single, self.means)]
        if self.means.empty:
            return [self._table(caption, self.single)]
        return [
            self._table(f"Means over the categories. {caption}", self.means),
            self._table("Each category", self.single),
        ]

    def _table(self, caption: str, rows: pd.DataFrame, means: pd.DataFrame | None = None) -> Table:
        labels = [key for key in [*self.table.keys, "row"] if rows[key].nunique() > 1] or ["row"]
        if rows["draws"].max() > 1:
            labels.append("draws")
        best = {
            metric: rows[metric].min() if metric in COSTS else rows[metric].max()
            for metric in self.table.metrics
            if rows[metric].nunique() > 1
        }

        def cells(row: pd.Series) -> Iterator[Cell]:
            for label in labels:
                text = value_text(label, row[label])
                yield Cell(text, text)
            for metric in self.table.metrics:
                is_best = row[metric] == best.get(metric)
                shown = _column(metric).show(row[metric], row[f"{metric}_se"])
                yield Cell(shown, row[metric], "number best" if is_best else "number")

        columns = ["category" if label == "row" else label for label in labels]
        return Table(
            caption,
            [*columns, *(_column(metric).title for metric in self.table.metrics)],
            [list(cells(row)) for _, row in rows.iterrows()],
            [] if means is None else [list(cells(row)) for _, row in means.iterrows()],
        )


def _column(metric: str) -> Column:
    return Column("fit, seconds", digits=1) if metric == "cost/fit_s" else column_of(metric)


def _detail(run: Run) -> dict[str, Any]:
    """One run as the template wants it."""
    known = len(run.predictions) > 0
    return {
        "name": run.name,
        "missing": run.missing,
        "config": run.config,
        "marks": {name: MARKS[name] for name in _marks(run)},
        "data": _json(_data(run)) if known else "{}",
        "histogram": _figure(histogram(run.predictions)) if known else None,
        "curves": {name: _figure(figure) for name, figure in curve_figures(run).items()},
        "defects": _defects(run.predictions) if known else None,
        "cards": _cards(run) if known else [],
        "views": _views(run),
    }


def _data(run: Run) -> dict[str, Any]:
    """What the script needs: scores, thresholds, and how maps and colours stand for scores."""
    scores = run.predictions["score"]
    gallery = run.gallery or {}
    low, high = gallery.get("bottom", scores.min()), gallery.get("top", scores.max())
    marks = _marks(run)
    least = min(low, scores.min())
    return {
        # The slider's steps are ratios, and at its right end nothing is found.
        "range": [max(least, 1e-3 * scores.max(), 1e-6), 1.01 * max(high, scores.max(), 1e-6)],
        "start": next(iter(marks.values()), float(scores.median())),
        "marks": marks,
        "defects": [
            {"defect": defect, "label": label, "scores": part["score"].tolist()}
            for (label, defect), part in run.predictions.groupby(["label", "defect"])
        ],
        "bottom": low,
        "top": high,
        **(gallery.get("scale") or {"low": low, "high": high}),
    }


def _marks(run: Run) -> dict[str, float]:
    """The thresholds of `MARKS` that the run has, each value once."""
    found: dict[str, float] = {}
    for name in MARKS:
        value = run.result.metrics.get(name, np.nan)
        if np.isfinite(value) and value not in found.values():
            found[name] = value
    return found


def _cards(run: Run) -> list[dict[str, Any]]:
    """The pictures of the gallery, inlined."""
    if not run.gallery:
        return []
    folder = run.folder.resolve() / "gallery"
    return [
        {
            **image,
            "kind": f"{image['kind']} {image['rank']}",
            "title": "/".join(Path(image["path"]).parts[-2:]),
            "shown": f"{image['score']:.4g}",
            "image": _inline(folder, f"{image['name']}_image.jpg"),
            "map": _inline(folder, f"{image['name']}_map.png"),
            "mask": _inline(folder, f"{image['name']}_mask.png"),
            "parts": [
                _inline(folder, f"{image['name']}_level{i}.png")
                for i in range(len(image["levels"]))
            ],
            "shares": _shares(image["levels"]),
        }
        for image in run.gallery["images"]
    ]


def _views(run: Run) -> dict[str, str]:
    """What the pictures can show, by the names that the script has for it."""
    images = run.gallery["images"] if run.gallery else []
    names = images[0]["levels"] if images else {}
    parts = {f"level{i}": f"Part of {name}" for i, name in enumerate(names)}
    return {"heat": "Heat map", **parts, "mask": "Mask", "image": "Image"}


def _shares(levels: Mapping[str, float]) -> str:
    """What each level adds where the map is highest; nothing unless there are several."""
    total = sum(levels.values())
    if len(levels) < 2 or not total:
        return ""
    return ", ".join(f"{name} {part / total:.0%}" for name, part in levels.items())


def _defects(predictions: pd.DataFrame) -> Table:
    """A row for each type of defect and for the normal images."""
    normal = predictions.loc[predictions["label"] == 0, "score"].to_numpy()
    rows = []
    for (label, defect), part in predictions.groupby(["label", "defect"]):
        scores = part["score"].to_numpy()
        area = _auroc(normal, scores) if label else np.nan
        rows.append(
            [
                Cell(str(defect), defect),
                Cell(str(len(part)), len(part), "number"),
                Cell("", 0, "number found"),
                Cell("" if np.isnan(area) else f"{100 * area:.1f}", area, "number"),
                *(Cell(f"{f(scores):.4g}", f(scores), "number") for f in (np.min, np.mean, np.max)),
            ]
        )
    columns = ["defect", "images", "at the threshold", "image AUROC"]
    return Table(
        "Found at the threshold, and scores; AUROC against the normal images",
        [*columns, "lowest score", "mean", "highest"],
        rows,
    )


def _auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    if not len(normal):
        return np.nan
    scores = torch.from_numpy(np.concatenate([normal, anomalous])).float()
    labels = torch.cat([torch.zeros(len(normal)), torch.ones(len(anomalous))])
    return float(auroc(score_curve(pack(scores, labels))))


def _figure(figure: go.Figure) -> Markup:
    """The figure as JSON inside a script element."""
    return _escaped(figure.update_layout(template="none").to_json())


def _json(value: Any) -> Markup:
    return _escaped(json.dumps(value, allow_nan=False))


def _escaped(text: str) -> Markup:
    # "</script>" in a file's name must not end the element.
    return Markup(text.replace("<", "\\u003c"))


def _inline(folder: Path, name: str) -> str | None:
    """A picture as a data URI; None if it does not lie in the folder, itself and no link."""
    path = (folder / name).resolve()
    if path.parent != folder or not path.is_file():
        return None
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
