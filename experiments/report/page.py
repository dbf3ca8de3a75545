"""The page itself: tables, figures and pictures put into the template."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from omegaconf import OmegaConf
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from experiments.drawing.panels import (
    CURVES,
    GROUPS,
    Panel,
    curve_line,
    curve_panel,
    curve_panels,
    histogram_panel,
)
from experiments.drawing.pictures import COLORMAP
from experiments.report.runs import Run
from experiments.scoring.gallery import KINDS
from experiments.tables.charts import LINES, sweep_charts
from experiments.tables.labels import value_text
from experiments.tables.result_table import SCORES, Layout, ResultTable, column_of
from experiments.tables.results import POOLED, Result, by_title
from experiments.tables.variants import what_varies

COSTS = ("cost/fit_s", "cost/image_s", "cost/state_gb")

TILES = (*SCORES, "image/f1_max", "cost/image_s", "cost/state_gb")

AREAS = {"roc": "auroc", "pr": "ap", "pro": "pro"}
"""The metric that is the area under a curve."""

MARKS = {
    "threshold/image": ("of the model, images", "as its fit or padim calibrate has set it"),
    "threshold/pixel": ("of the model, pixels", "as its fit or padim calibrate has set it"),
    "image/f1_max_threshold": ("best F1, images", "known only where test images are labelled"),
    "pixel/f1_max_threshold": ("best F1, pixels", "known only where test images are labelled"),
}
"""Thresholds to begin with or to go to: their names on the page, and what they are."""

Table = dict[str, Any]
"""Caption, texts, the number of columns that are labels, and perhaps cells that are best."""


def render(
    title: str,
    subtitle: str,
    about: Sequence[str],
    results: Sequence[Result],
    runs: Sequence[Run],
    notes: Sequence[str],
    table: Mapping[str, Any],
) -> str:
    """The page as HTML.

    Args:
        title, subtitle: its heading, and what stands below, before the date.
        about: what to know about the sweeps.
        results: of all runs; they make the tables and the comparison.
        runs: those shown in detail.
        notes: what to know about the choice of these.
        table: what replaces parts of the first run's `Layout`.
    """
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True, trim_blocks=True)
    tables = [(replace(_layout(group[0]), **table), group) for group in by_title(results)]
    varying = what_varies(results, seeds=True)
    return environment.get_template("template.html").render(
        title=title,
        subtitle=subtitle,
        about=about,
        date=datetime.now().strftime("%Y-%m-%d %H:%M"),
        style=Markup((here / "report.css").read_text(encoding="utf-8")),
        script=Markup((here / "report.js").read_text(encoding="utf-8")),
        # The whole of it: the package has no smaller bundle, and one of our own would have to be
        # kept in step with the figures that the package writes.
        plotly=Markup(get_plotlyjs()),
        colormap=_json((255 * COLORMAP(np.arange(256))[:, :3]).round().astype(int).tolist()),
        summaries=[_summary(group, layout) for layout, group in tables],
        comparisons=[*_comparisons(results, tables[0][0], runs)] if len(tables) == 1 else [],
        notes=notes,
        runs=[_detail(run) for run in runs],
        differences={
            key: [value_text(key, value) for value in dict.fromkeys(varying[key])]
            for key in varying
        },
        overrides=runs[0].overrides if all(r.overrides == runs[0].overrides for r in runs) else [],
    )


def _layout(result: Result) -> Layout:
    """The table that a run's configuration describes."""
    assert result.folder
    config = OmegaConf.load(result.folder / "config.yaml")
    return Layout.of(config.table, config.data._target_) if "table" in config else Layout()


def _summary(results: Sequence[Result], layout: Layout) -> dict[str, Any]:
    """Tables of the results, and large figures if they are of a single variant.

    Beside published figures there are no others than these.
    """
    if not layout.reference:
        layout = replace(layout, metrics=[*dict.fromkeys([*layout.metrics, *COSTS])])
    table = ResultTable(results, layout)
    published = [_published(layout)] if layout.reference else []
    found: dict[str, Any] = {"title": layout.title, "tiles": [], "notes": table.notes}
    numbers, caption = table.numbers, "" if layout.metrics[0] in COSTS else "Metrics in percent"
    is_mean = numbers["row"].isin(list(table.means))
    means, single = numbers[is_mean], numbers[~is_mean]
    if table.several and len(means):
        first = _table(table, f"Means over the categories. {caption}", means)
        return found | {"tables": [first, *published, _table(table, "Each category", single)]}
    tables = [_table(table, caption, single), *published]
    if len(means):
        tables[0]["means"] = _table(table, "", means)["texts"]
    last = numbers.iloc[[-1]] if means.empty else means.iloc[[-1]]
    texts = table.texts(last).xs("", axis=1, level=1)
    figures = dict(zip(table.metrics, zip(texts, texts.iloc[0], strict=True), strict=True))
    shown = [name for name in TILES if name in table.metrics and not table.several]
    return found | {"tiles": [figures[name] for name in shown], "tables": tables}


def _published(layout: Layout) -> Table:
    """The published means of each variant: where categories are missing, ours have none beside."""
    means = (*layout.groups, "all", POOLED)
    texts = pd.DataFrame(
        {"paper's": variant}
        | {
            f"{row}, {column_of(metric).title}": figures[row][i]
            for row in means
            if row in figures
            for i, metric in enumerate(layout.metrics)
        }
        for variant, figures in layout.reference.items()
    ).dropna(axis=1)
    return {"caption": "As published", "texts": texts, "labels": 1, "open": True}


def _table(table: ResultTable, caption: str, rows: pd.DataFrame) -> Table:
    """Some rows of a table, of several variants with the best of each metric."""
    labels = [key for key in [*table.keys, "row"] if rows[key].nunique() > 1] or ["row"]
    labels += ["seeds"] if table.numbers["seeds"].max() > 1 else []
    texts = table.texts(rows)
    best = table.best(rows, texts).to_numpy()
    texts.columns = texts.columns.map(lambda pair: ", ".join(filter(None, pair)))
    for i, key in enumerate(labels):
        name = "category" if key == "row" else table.heading(key)
        texts.insert(i, name, [value_text(key, value) for value in rows[key]])
    return {"caption": caption, "texts": texts, "labels": len(labels), "best": best}


def _comparisons(
    results: Sequence[Result], layout: Layout, runs: Sequence[Run]
) -> Iterator[dict[str, Any]]:
    """Groups of figures: what a sweep has varied, and the curves of several runs."""
    for chart in sweep_charts(results, layout.metrics):
        title = f"{chart.title}, {chart.row}" if chart.row else chart.title
        figures = [(panel.title, _figure(panel)) for panel in chart.panels]
        yield {"title": title, "note": f"{chart.note}.", "figures": figures}
    figures = []
    for end, (title, *_) in CURVES.items():
        for name in (f"{group}/{end}" for group in GROUPS):
            lines = [
                curve_line(name, run.curves[name], _with_area(run, name, run.name), colour)
                for colour, run in enumerate(runs[:LINES])
                if name in run.curves
            ]
            if lines:
                about = f"{title}, {name.partition('/')[0]}s"
                figures.append((about, _figure(curve_panel(end, lines))))
    if figures and len(runs) > 1:
        few = f"The first {LINES} of {len(runs)} runs." if len(runs) > LINES else ""
        yield {"title": "Curves", "note": few, "figures": figures}


def _with_area(run: Run, curve: str, label: str) -> str:
    """A label with the area under a curve, in percent."""
    group, _, end = curve.partition("/")
    return f"{label} {100 * run.result.metrics[f'{group}/{AREAS[end]}']:.1f}"


def _detail(run: Run) -> dict[str, Any]:
    """One run as the template wants it."""
    known = len(run.predictions) > 0
    labels = {name: _with_area(run, name, f"{name.partition('/')[0]}s") for name in run.curves}
    panels = curve_panels(run.curves, labels)
    images = run.gallery["images"] if run.gallery else []
    parts = {
        f"level{i}": f"Part of {name}"
        for i, name in enumerate(images[0]["levels"] if images else ())
    }
    return {
        "name": run.name,
        "lacks": {"predictions": not known, "curves": not run.curves, "gallery": not images},
        "config": (run.folder / "config.yaml").read_text(encoding="utf-8"),
        "marks": {name: MARKS[name] for name in _marks(run)},
        "data": _json(_data(run)) if known else "{}",
        "histogram": _figure(histogram_panel(run.predictions)) if known else None,
        "curves": [(panel.title, _figure(panel)) for panel in panels],
        "defects": _defects(run.predictions) if known else None,
        "cards": [_card(run.folder.resolve() / "gallery", image) for image in images]
        if known
        else [],
        "views": {"heat": "Heat map", **parts, "mask": "Mask", "image": "Image"},
    }


def _data(run: Run) -> dict[str, Any]:
    """All that the script needs: scores, thresholds, and how maps and colours stand for scores."""
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
            {"defect": defect, "label": label, "scores": part.tolist()}
            for (label, defect), part in run.predictions.groupby(["label", "defect"])["score"]
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


def _card(folder: Path, image: Mapping[str, Any]) -> dict[str, Any]:
    """An image of a gallery, its pictures inlined."""
    total = sum(image["levels"].values())
    shares = [f"{name} {part / total:.0%}" for name, part in image["levels"].items() if total]
    levels = [f"{image['name']}_level{i}.png" for i in range(len(image["levels"]))]
    return {
        **image,
        "kind": f"{KINDS.get(image['kind'], image['kind'])} {image['rank']}",
        "title": "/".join(Path(image["path"]).parts[-2:]),
        "shown": f"{image['score']:.4g}",
        "image": _inline(folder, f"{image['name']}_image.jpg"),
        "map": _inline(folder, f"{image['name']}_map.png"),
        "mask": _inline(folder, f"{image['name']}_mask.png"),
        "parts": [_inline(folder, name) for name in levels],
        # What each level adds where the map is highest.
        "shares": ", ".join(shares) if len(shares) > 1 else "",
    }


def _defects(predictions: pd.DataFrame) -> Table:
    """A row for each type of defect and for the normal images."""
    normal = predictions.loc[predictions["label"] == 0, "score"]
    rows = []
    for (label, defect), scores in predictions.groupby(["label", "defect"])["score"]:
        n, area = len(scores), ""
        if label and len(normal):
            ranks = pd.concat([normal, scores]).rank().iloc[-n:]
            area = f"{100 * (ranks.mean() - (n + 1) / 2) / len(normal):.1f}"
        ends = [f"{value:.4g}" for value in (scores.min(), scores.mean(), scores.max())]
        rows.append([defect, n, "", area, *ends])
    columns = ["defect", "images", "at the threshold", "image AUROC", "lowest score", "mean"]
    texts = pd.DataFrame(rows, columns=[*columns, "highest"])
    caption = "Found at the threshold, and scores; AUROC against the normal images"
    return {"caption": caption, "texts": texts, "labels": 1}


def _figure(panel: Panel) -> Markup:
    """The panel as JSON inside a script element, for the script to draw."""
    described = asdict(panel)
    if panel.cells is not None:
        described["cells"] = panel.cells.to_dict("split")
    if panel.points is not None:
        described["points"] = panel.points.sort_values("x").to_dict("records")
    return _escaped(json.dumps(described, cls=PlotlyJSONEncoder))  # null for what is not finite


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
