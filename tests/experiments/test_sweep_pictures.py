"""What a multirun leaves behind: rows, means of variants, pictures."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from experiments.cli import main
from experiments.sweeps.pictures import draw_charts, write_pictures
from experiments.sweeps.table import write_rows
from experiments.tables.charts import pareto_front, split_panels, sweep_charts
from experiments.tables.results import POOLED, Result, read_results
from experiments.tables.variants import distinguishing, numbered, variant_means, what_varies
from runs import SMALL
from trees import mvtec_tree

METRICS = ("image/auroc", "image/ap", "pixel/auroc", "pixel/pro")


pytestmark = [
    pytest.mark.filterwarnings(f"error::{kind}") for kind in ("UserWarning", "RuntimeWarning")
]
"""Of matplotlib and NumPy: figures too small for what is in them, means of nothing."""


def result(
    seed: int = 0, category: str = "tile", auroc: float | None = None, **over: Any
) -> Result:
    """A run of random figures; `over` replaces settings, whose dots are written as __."""
    config: dict[str, Any] = {
        "backbone.layers": ["a", "b"],
        "reduction._target_": "padim.RandomChannels",
        "reduction.d": 100,
        "reduction.seed": seed,
        "gaussian.eps": 0.01,
        "gaussian.shrinkage": 0,
        "data.category": category,
        "seed": seed,
    }
    config |= {key.replace("__", "."): value for key, value in over.items()}
    config = {key: value for key, value in config.items() if value != "absent"}
    metrics = dict(zip(METRICS, np.random.default_rng().uniform(0.5, 1, 4), strict=True))
    metrics |= {} if auroc is None else {"image/auroc": auroc}
    d = config.get("reduction.d", 300)
    return Result(category, config, metrics | {"cost/state_gb": d * 1e-3, "cost/image_s": 0.1})


def everything() -> list[Result]:
    none = {"reduction__d": "absent", "reduction___target_": "padim.AllChannels"}
    return [result(seed, **none) for seed in range(2)]


def grid(**values: list[Any]) -> list[Result]:
    """A result for each combination."""
    return [
        result(**dict(zip(values, row, strict=True))) for row in itertools.product(*values.values())
    ]


def means_of(results: list[Result], metric: str) -> pd.DataFrame:
    return variant_means(results, numbered(what_varies(results)), [metric])[metric]


LAYERS = [["a"], ["b"], ["a", "b"]]


@pytest.mark.parametrize(
    ("results", "pictures"),
    [
        ([result()], []),
        (grid(seed=[0, 1, 2]), []),
        (grid(category=["tile", "wood"]), []),
        (grid(gaussian__eps=[0.001, 0.01, 0.1], category=["tile", "wood"]), ["gaussian.eps"]),
        (grid(gaussian__shrinkage=[0, 0.1, "auto"]), ["gaussian.shrinkage"]),
        (grid(gaussian__shrinkage=[0, "auto"]), []),  # one number makes no line
        (grid(backbone__layers=LAYERS), []),
        (grid(backbone__layers=LAYERS, gaussian__eps=[0.01, 0.1]), ["gaussian.eps", "layers"]),
        (grid(backbone__layers=LAYERS, score__kind=["max", "max_raw"]), ["layers"]),
        (
            [
                result(backbone__name="r18", backbone__layers=["a"], reduction__d=100),
                result(backbone__name="wr50", backbone__layers=["b"], reduction__d=550),
            ],
            ["cost"],  # two models, not two d of one
        ),
        ([*grid(reduction__d=[50, 100], seed=[0, 1]), *everything()], ["reduction.d", "cost"]),
        (
            grid(
                backbone__layers=[[str(i)] for i in range(10)],
                reduction__d=[10, 500],
                score__kind=["max", "max_raw"],
            ),
            ["reduction.d", "layers", "cost"],
        ),
    ],
)
def test_pictures_there_are(results: list[Result], pictures: list[str], tmp_path: Path) -> None:
    written = write_pictures(results, METRICS, tmp_path / "pictures")
    assert sorted(path.stem for path in written) == sorted(pictures)
    assert sorted(written) == sorted(tmp_path.rglob("*.*"))


def test_pictures_are_of_the_kinds_asked_for(tmp_path: Path) -> None:
    results = grid(gaussian__eps=[0.01, 0.1])
    png, pdf = write_pictures(results, METRICS, tmp_path, ["png", "pdf"])
    assert (png.name, pdf.name) == ("gaussian.eps.png", "gaussian.eps.pdf")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_metrics_that_no_result_has_are_left_out(tmp_path: Path) -> None:
    def width(metrics: tuple[str, ...]) -> int:
        results = grid(reduction__d=[50, 100])
        for one in results:
            for name in set(METRICS) - set(metrics):
                del one.metrics[name]
        with Image.open(write_pictures(results, METRICS, tmp_path)[0]) as picture:
            return picture.width

    assert width(("image/auroc", "image/ap")) < width(METRICS) - 300
    assert (
        write_pictures([Result("tile", r.config, {}) for r in grid(seed=[0, 1])], METRICS, tmp_path)
        == []
    )


def test_means_over_categories_come_before_those_over_seeds() -> None:
    aurocs = {(0, "tile"): 0.9, (0, "wood"): 0.7, (1, "tile"): 0.8, (1, "wood"): 0.4}
    results = [result(*draw, auroc=auroc, reduction__d=50) for draw, auroc in aurocs.items()]
    results += [result(0, "tile", 0.5), result(0, "wood", 0.6), result(1, "tile", 0.1)]
    results.append(results[0])
    means = means_of(results, "image/auroc")
    assert list(means.loc[0]) == pytest.approx([0.7, 0.1, 2])
    # The second seed lacks a category.
    assert list(means.loc[1]) == pytest.approx([0.55, np.nan, 1], nan_ok=True)


def test_a_variant_that_lacks_a_category_has_no_mean() -> None:
    results = [*grid(reduction__d=[50, 100], category=["tile", "wood"]), result(reduction__d=200)]
    assert list(means_of(results, "pixel/pro")["mean"].isna()) == [False, False, True]


def test_images_of_all_categories_at_once_are_not_drawn() -> None:
    results = grid(reduction__d=[50, 100], category=["tile", "wood"])
    charts = sweep_charts([*results, result(0, POOLED, 0.0)], METRICS)
    assert {chart.note.split(",")[0] for chart in charts} == {"mean of 2 categories"}


def test_settings_that_say_the_same_are_named_once() -> None:
    rows = [("r18", "a", 100, "x"), ("r18", "a", 200, "x"), ("wr50", "b", 100, "y")]
    settings = pd.DataFrame(rows, columns=["name", "layers", "d", "table"])
    assert distinguishing(settings) == ["name", "d"]
    assert distinguishing(settings[["d"]]) == ["d"]
    assert distinguishing(settings[:1]) == []


def test_without_reduction_there_is_a_level_to_each_line() -> None:
    results = [
        *grid(backbone__layers=LAYERS, reduction__d=[50, 100]),
        *(
            result(
                backbone__layers=layers,
                reduction__d="absent",
                reduction___target_="padim.AllChannels",
            )
            for layers in LAYERS
        ),
    ]
    charts = {chart.name: chart for chart in sweep_charts(results, METRICS)}
    assert set(charts) == {"reduction.d", "layers", "cost"}
    lines = charts["reduction.d"].panels[0].lines
    assert [line.label for line in lines if not line.dashed] == ["a", "b", "a+b"]
    assert [line.label for line in lines if line.dashed] == ["a, no d", "b, no d", "a+b, no d"]


def test_curves_show_means_with_their_standard_errors() -> None:
    aurocs = {(d, seed): 0.9 + d / 1e4 + seed / 100 for d in (100, 20, 60) for seed in (0, 1, 4)}
    results = [result(s, auroc=auroc, reduction__d=d) for (d, s), auroc in aurocs.items()]
    results += [Result(r.category, r.config, {"image/auroc": 0.95}) for r in everything()]
    charts = [c for c in sweep_charts(results, ["image/auroc"]) if c.name == "reduction.d"]
    panel = draw_charts(charts).axes[0]
    (curve,) = panel.containers
    values = 100 * np.array([[aurocs[d, seed] for seed in (0, 1, 4)] for d in (20, 60, 100)])
    np.testing.assert_allclose(curve.lines[0].get_xdata().astype(float), [20, 60, 100])
    np.testing.assert_allclose(curve.lines[0].get_ydata().astype(float), values.mean(1))
    heights = [float(np.ptp(bar[:, 1])) for bar in curve.lines[2][0].get_segments()]
    np.testing.assert_allclose(heights, 2 * values.std(1, ddof=1) / np.sqrt(3))
    (level,) = (line for line in panel.lines if line.get_linestyle() == "--")
    assert set(level.get_ydata()) == {95}


@pytest.mark.parametrize(
    ("sizes", "rows", "lines"),
    [
        ([7], [], ["a"]),
        ([12], [], ["a"]),
        ([3, 2], [], ["a", "b"]),
        ([4, 3], ["b"], ["a"]),
        ([5, 3, 2], ["c", "b"], ["a"]),
        ([9, 8], [], ["a", "b"]),
        ([5, 4, 3], ["c"], ["a", "b"]),
    ],
)
def test_rows_of_panels_keep_lines_few(sizes: list[int], rows: list[str], lines: list[str]) -> None:
    combined = list(itertools.product(*map(range, sizes)))
    assert split_panels(pd.DataFrame(combined, columns=list("abc"[: len(sizes)]))) == (rows, lines)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_point_dominates(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Few values, so that there are ties and equal points.
    costs, scores = generator.integers(0, [[6 + seed]], (2, 30)).astype(float)
    expected = [
        not any(
            c <= cost and s >= score and (c, s) != (cost, score)
            for c, s in zip(costs, scores, strict=True)
        )
        for cost, score in zip(costs, scores, strict=True)
    ]
    assert list(pareto_front(pd.Series(costs), pd.Series(scores))) == expected


def test_a_sweep_that_was_resumed_is_one() -> None:
    results = grid(seed=[0, 1], sweep__resume=[None, "runs/stopped"], save_model=[False, True])
    assert {str(r.settings) for r in results} == {str(results[0].settings)}


def test_rows_of_seeds_without_effect_are_distinguished(tmp_path: Path) -> None:
    results = [
        Result(r.category, r.config | {"reduction.seed": 0}, r.metrics, tmp_path / str(i))
        for i, r in enumerate(grid(seed=[3, 5]))
    ]
    write_rows(results, tmp_path)
    rows = pd.read_csv(tmp_path / "sweep.csv")
    assert list(rows.columns[:3]) == ["run", "category", "seed"]
    assert list(rows["seed"]) == [3, 5]


def test_a_sweep_leaves_rows_and_pictures(tmp_path: Path) -> None:
    for category, train in (("widget", 12), ("gadget", 8)):
        mvtec_tree(tmp_path / "data", category, train=train)
    small = [
        o for o in SMALL if not o.startswith(("reduction", "backbone.layers", "data.category"))
    ]
    options = [f"data.root={tmp_path / 'data'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    swept = ["backbone.layers=[1],[1,2]", "reduction.d=3,6"]
    main(["fit", "-m", *small, *options, *swept, "data.category=all", "pictures=0"])
    folder = tmp_path / "sweep"
    rows = pd.read_csv(folder / "sweep.csv", dtype={"run": str})
    assert len(rows) == 4 * 2
    assert list(rows.columns[:4]) == ["run", "category", "backbone.layers", "reduction.d"]
    for row in rows.to_dict("records"):
        run = folder / row["run"]
        assert run.name == row["category"]
        metrics = json.loads((run / "metrics.json").read_text())
        assert {name: row[name] for name in metrics} == pytest.approx(metrics)
        config = OmegaConf.load(run / "config.yaml")
        assert config.reduction.d == row["reduction.d"]
        assert str(config.backbone.layers) == row["backbone.layers"]
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    assert pictures == {"reduction.d.png", "layers.png", "cost.png"}
    table = pd.read_csv(folder / "table.csv").query("row.str.startswith('all')")
    for metric in ("image/auroc", "pixel/pro"):
        means = means_of(list(read_results(folder)), metric)["mean"]
        assert list(100 * means) == pytest.approx(list(table[metric]))
