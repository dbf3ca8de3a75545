import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.tables.result_table import Layout, ResultTable
from experiments.tables.results import Result, read_results

METRICS = ("pixel/auroc", "pixel/pro")
LAYOUT = Layout(
    "Table III",
    METRICS,
    {
        "R18": {
            "tile": [91.2, 81.6],
            "wood": [93.6, 90.3],
            "textures": [95.6, 91.3],
            "bottle": [98.1, 93.9],
            "all": [96.7, 90.1],
        },
    },
    {"textures": ("tile", "wood"), "objects": ("bottle", "pill")},
    ("tile", "wood", "bottle", "pill"),
)


def result(category: str, auroc: float, seed: int = 0, **settings: object) -> Result:
    config = {"backbone.name": "net", "reduction.d": 7, "seed": seed, "reduction.seed": seed}
    config |= {"table.variant": "R18", "data.category": category}
    return Result(category, config | settings, {"pixel/auroc": auroc, "pixel/pro": auroc / 2})


def value(table: ResultTable, row: str, column: str = "pixel/auroc") -> float:
    return float(table.numbers.set_index("row").loc[row, column])


def test_one_variant_has_a_row_a_category_and_mean() -> None:
    aurocs = {"tile": 0.9, "wood": 0.8, "bottle": 0.6, "pill": 0.7}
    table = ResultTable([result(*pair) for pair in aurocs.items()], LAYOUT)
    assert list(table.numbers["row"]) == [*aurocs, "textures", "objects", "all"]
    assert value(table, "textures") == pytest.approx(85)
    assert value(table, "objects") == pytest.approx(65)
    assert value(table, "all") == pytest.approx(75)
    assert value(table, "all", "pixel/pro") == pytest.approx(37.5)
    assert np.isnan(value(table, "all", "pixel/auroc_se"))


def test_published_figures_stand_beside() -> None:
    table = ResultTable([result("tile", 0.9), result("bottle", 0.99)], LAYOUT)
    assert value(table, "tile", "pixel/auroc_reference") == 91.2
    assert value(table, "tile", "pixel/auroc_difference") == pytest.approx(-1.2)
    assert value(table, "tile", "pixel/pro_reference") == 81.6


def test_a_mean_of_some_categories_is_compared_with_the_same_ones() -> None:
    table = ResultTable([result("tile", 0.9), result("bottle", 0.99)], LAYOUT)
    assert value(table, "all (2 of 4)", "pixel/auroc_reference") == pytest.approx((91.2 + 98.1) / 2)
    assert table.text().notes == ["net, d = 7, paper: R18", "2 of 4 categories."]


def test_the_published_mean_of_all_does_not_stand_beside_one_of_some() -> None:
    table = ResultTable([result("tile", 0.9), result("pill", 0.7)], LAYOUT)  # none for pill
    assert np.isnan(value(table, "all (2 of 4)", "pixel/auroc_reference"))
    assert np.isnan(value(table, "all (2 of 4)", "pixel/auroc_difference"))


def test_a_row_is_named_by_what_ran_and_the_paper_s_name_stands_beside_it() -> None:
    settings = {"reduction.d": 7, "reduction.clip": True}
    results = [
        result("tile", 0.5, **settings, **{"table.variant": name, "data.pose": i})
        for i, name in enumerate(("R18-Rd100", "WR50-Rd550"))
    ]
    text = ResultTable(results, LAYOUT).text()
    assert text.cells.index.names == ["data.pose", "paper's"]
    assert text.cells.index.to_list() == [("0", "R18-Rd100"), ("1", "WR50-Rd550")]
    assert text.notes == ["net, d = 7, or all there are"]


def test_seeds_are_averaged_with_their_standard_error() -> None:
    results = [
        result(category, auroc + 0.01 * seed, seed)
        for seed in range(3)
        for category, auroc in (("tile", 0.5), ("wood", 0.7))
    ]
    table = ResultTable(results, LAYOUT)
    assert value(table, "all (2 of 4)") == pytest.approx(61)
    assert value(table, "all (2 of 4)", "pixel/auroc_se") == pytest.approx(1 / np.sqrt(3))
    assert set(table.numbers["seeds"]) == {3}
    assert "Mean ± standard error over 3 seeds." in table.text().notes
    assert "61.0 ± 0.6" in table.text().markdown()


def test_a_mean_over_categories_with_a_hole_is_not_defined() -> None:
    hole = Result("wood", result("wood", 0).config, {"pixel/pro": 0.4})
    table = ResultTable([result("tile", 0.5), hole], LAYOUT)
    assert np.isnan(value(table, "all (2 of 4)"))
    assert value(table, "all (2 of 4)", "pixel/pro") == pytest.approx(32.5)


def test_several_variants_have_a_row_each_under_what_varies() -> None:
    results = [
        result(category, auroc, **{"reduction.d": d})
        for d, gain in ((50, 0), (100, 0.1))
        for category, auroc in (("tile", 0.5 + gain), ("wood", 0.6 + gain), ("bottle", 0.7 + gain))
    ]
    table = ResultTable(results, LAYOUT)
    assert table.keys == ["reduction.d"]
    cells = table.text().cells
    assert list(cells.index) == [("50",), ("100",)] or list(cells.index) == ["50", "100"]
    assert cells["textures, pixel AUROC", ""].tolist() == ["55.0", "65.0"]
    assert cells["all (3 of 4), PRO", ""].tolist() == ["30.0", "35.0"]


def test_variants_of_different_categories_are_not_averaged() -> None:
    results = [result("tile", 0.5, run="a"), result("wood", 0.6, run="b")]
    table = ResultTable(results, LAYOUT)
    assert list(table.numbers["row"]) == ["tile", "wood"]
    assert table.text().cells["pixel AUROC", ""].to_dict() == {
        ("a", "tile"): "50.0",
        ("b", "wood"): "60.0",
    }


def test_costs_are_the_same_for_every_category() -> None:
    layout = Layout("", ["cost/image_s"], {"R18": {"all": [0.23]}}, {}, LAYOUT.known)
    slow = Result("tile", result("tile", 0).config, {"cost/image_s": 0.03})
    table = ResultTable([slow], layout)
    assert value(table, "tile", "cost/image_s_difference") == pytest.approx(-0.2)


def test_metrics_without_results_are_left_out() -> None:
    only_image = Result("tile", result("tile", 0).config, {"image/auroc": 0.9})
    table = ResultTable([only_image], Layout(metrics=["image/auroc", "pixel/auroc"]))
    assert table.metrics == ["image/auroc"]


def test_files(tmp_path: Path) -> None:
    table = ResultTable([result("tile", 0.9), result("wood", 0.8)], LAYOUT)
    table.write(tmp_path)
    numbers = pd.read_csv(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(numbers, table.numbers)
    markdown = (tmp_path / "table.md").read_text()
    assert markdown.startswith("**Table III**\n\n|")
    assert "pixel AUROC |   paper |   diff |" in markdown
    latex = (tmp_path / "table.tex").read_text()
    assert r"\multicolumn{3}{c}{pixel AUROC}" in latex
    assert "tile & 90.0 & 91.2 & $-$1.2" in latex


def test_short_names_stand_in_tables_for_people_only(tmp_path: Path) -> None:
    settings = {"backbone.layers": ["a", "b"], "backbone.patch_pooling": 1}
    results = [
        result("tile", 0.5, **settings, **{"reduction._target_": "padim.RandomChannels"}),
        result("tile", 0.5, **{"backbone.layers": ["a"], "backbone.patch_pooling": 3}),
    ]
    ResultTable(results, Layout(metrics=METRICS)).write(tmp_path)
    markdown, latex = (tmp_path / f"table.{end}" for end in ("md", "tex"))
    assert "| a+b               | 1                        | RandomChannels" in markdown.read_text()
    assert r"backbone.layers & backbone.patch\_pooling & reduction &" in latex.read_text()
    columns = ["backbone.layers", "backbone.patch_pooling", "reduction._target_"]
    assert list(pd.read_csv(tmp_path / "table.csv").columns[:3]) == columns


def test_few_of_many_categories_are_counted_not_named() -> None:
    known = tuple(map(str, range(15)))
    table = ResultTable([result("1", 0.5), result("2", 0.6)], Layout("", METRICS, known=known))
    assert table.text().notes[-1] == "2 of 15 categories."


def test_little_memory_is_shown_in_megabytes() -> None:
    small = Result("tile", result("tile", 0).config, {"cost/state_gb": 0.0005})
    table = ResultTable([small], Layout("", ["cost/state_gb"]))
    assert table.text().cells["state, MB", ""].tolist() == ["0.5"]
    assert value(table, "tile", "cost/state_gb") == 0.0005
    large = Result("tile", small.config | {"reduction.d": 9}, {"cost/state_gb": 0.2})
    table = ResultTable([small, large], Layout("", ["cost/state_gb"]))
    assert table.text().cells["state, MB", ""].tolist() == ["0.5", "200.0"]


def test_what_data_refers_to_is_one_setting() -> None:
    config = {"preprocessing": {"resize": 256, "roi": None}, "loading": {"batch_size": 32}}
    copies = {"data": {**config, "category": "tile"}, "trainer": {"devices": 1}}
    assert Result.of("tile", {**config, **copies}, {}).settings == {"preprocessing.resize": 256}
    assert Result.of("tile", copies, {}).settings == {"preprocessing.resize": 256}


@pytest.mark.parametrize(
    ("data", "category"),
    [
        ({"_target_": "mine.Parts", "root": "a/b"}, "Parts"),
        ({"_target_": "mine.Parts", "name": "bolts"}, "bolts"),
        ({"_target_": "datamodules.Folder", "root": "a/b"}, "b"),
        ({"_target_": "datamodules.STC", "scene": 1}, "01"),
    ],
)
def test_names_of_categories(tmp_path: Path, data: dict[str, object], category: str) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(json.dumps({"data": data}))
    assert [r.category for r in read_results(tmp_path)] == [category]


def test_latex_escapes_names(tmp_path: Path) -> None:
    table = ResultTable([result("metal_nut", 0.9, s) for s in range(2)], Layout(metrics=METRICS))
    latex = table.text().latex()
    assert r"metal\_nut & 90.0 $\pm$ 0.0" in latex


def test_jobs_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for job in (0, 2, 10):
        run = tmp_path / str(job) / "tile"
        run.mkdir(parents=True)
        (run / "metrics.json").write_text(f'{{"image/auroc": {job}}}')
        (run / "config.yaml").write_text("data: {category: tile}\nreduction: {d: 3}")
        (tmp_path / str(job) / "metrics.json").write_text("{}")
        (tmp_path / str(job) / "config.yaml").write_text("data: {category: all}")  # these are means
    results = list(read_results(tmp_path))
    assert [r.metrics["image/auroc"] for r in results] == [0, 2, 10]
    assert results[0].category == "tile"
    assert results[0].settings == {"reduction.d": 3}
