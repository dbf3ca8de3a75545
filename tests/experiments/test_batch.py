"""Several categories, models and seeds under one command."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from experiments.cli import main
from runs import SMALL, failure
from trees import mvtec_tree

TINY = [*(option for option in SMALL if "category" not in option), "pictures=0"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for category in ("bottle", "pill", "tile"):
        mvtec_tree(root, category)
    return root


@pytest.fixture(scope="module")
def runs(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    argv, folder = sys.argv, tmp_path_factory.mktemp("runs") / "all"
    try:
        main(["fit", *TINY, "data.category=all", f"data.root={root}", f"hydra.run.dir={folder}"])
    finally:
        sys.argv = argv
    return folder


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def test_all_categories_have_a_run_each_and_one_table(runs: Path) -> None:
    for category in ("bottle", "pill", "tile"):
        assert (runs / category / "model.ckpt").is_file()
        assert OmegaConf.load(runs / category / "config.yaml").data.category == category
        assert (runs / category / "csv").is_dir()
    table = pd.read_csv(runs / "table.csv").set_index("row")
    assert [*table.index] == [
        *("bottle", "pill", "tile"),
        *("textures (1 of 5)", "objects (2 of 10)", "all (3 of 15)"),
    ]
    each = [metrics(runs / category)["pixel/auroc"] for category in ("bottle", "pill", "tile")]
    assert table.loc["all (3 of 15)", "pixel/auroc"] == pytest.approx(100 * sum(each) / 3)
    assert metrics(runs)["pixel/auroc"] == pytest.approx(sum(each) / 3)


def test_missing_categories_are_named(root: Path, tmp_path: Path, capsys) -> None:
    category = "data.category=all"
    main(["fit", *TINY, category, f"data.root={root}", f"hydra.run.dir={tmp_path}"])
    printed = capsys.readouterr()
    assert "Of MVTec, carpet, grid, leather, wood, cable" in printed.err
    assert "bottle (1 of 3)" in printed.err
    assert "3 of 15 categories." in printed.out


def test_a_list_of_categories(root: Path, tmp_path: Path) -> None:
    category = "data.category=[tile,pill]"
    main(["fit", *TINY, category, f"data.root={root}", f"hydra.run.dir={tmp_path}"])
    assert list(pd.read_csv(tmp_path / "table.csv")["row"])[:2] == ["tile", "pill"]


def test_a_category_that_fails_does_not_stop_the_others(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    category = "data.category=[pill,plate,tile]"
    said = failure(
        capsys, ["fit", *TINY, category, f"data.root={root}", f"hydra.run.dir={tmp_path}"]
    )
    assert "plate failed: " in said
    assert "no category 'plate'" in said
    assert "1 of 3 failed, see above: plate" in said
    assert list(pd.read_csv(tmp_path / "table.csv")["row"])[:2] == ["pill", "tile"]


def test_no_category_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["data.category=all", f"data.root={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"]
    said = failure(capsys, ["fit", *TINY, *options])
    assert f"{tmp_path}: no category of MVTec is there; it has carpet, grid" in said


def test_evaluate_a_folder_of_runs(runs: Path, tmp_path: Path) -> None:
    main(["evaluate", str(runs), "pictures=0", "trainer=cpu", f"hydra.run.dir={tmp_path}"])
    expected = pd.read_csv(runs / "table.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv"), expected)


def test_evaluate_several_models_in_one_table(runs: Path, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    options = ["data.category=pill", f"data.root={root}", f"hydra.run.dir={other}", "reduction.d=5"]
    main(["fit", *TINY, *options])
    out = f"hydra.run.dir={tmp_path / 'out'}"
    main(["evaluate", str(runs / "pill"), str(other), "pictures=0", "trainer=cpu", out])
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table["reduction.d"].tolist() == [20, 5]
    assert table["run"].tolist() == [str(runs), str(other)]
    single = 100 * metrics(other)["image/auroc"]
    assert table["image/auroc"].tolist()[1] == pytest.approx(single)


def test_evaluate_at_the_original_resolution(runs: Path, tmp_path: Path) -> None:
    arguments = [
        str(runs / "pill"),
        "preprocessing.resolution=original",
        "trainer=cpu",
        "pictures=2",
    ]
    main(["evaluate", *arguments, f"hydra.run.dir={tmp_path}"])
    # The images of this data set have the model's size: nothing changes but the bilinear sampling.
    expected = metrics(runs / "pill")["pixel/auroc"]
    assert metrics(tmp_path)["pixel/auroc"] == pytest.approx(expected, abs=1e-4)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3


def test_folder_without_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = failure(capsys, ["evaluate", str(tmp_path), f"hydra.run.dir={tmp_path / 'run'}"])
    assert f"there is no model.ckpt in {tmp_path}, nor below it" in said


def test_draws_of_a_sweep_are_averaged(root: Path, tmp_path: Path) -> None:
    sweep = [f"data.root={root}", "data.category=all", "seed=0,1,2", f"hydra.sweep.dir={tmp_path}"]
    main(["fit", "-m", *TINY, *sweep])
    table = pd.read_csv(tmp_path / "table.csv").set_index("row")
    values = [metrics(tmp_path / job)["image/auroc"] for job in "012"]
    assert set(table["seeds"]) == {3}
    mean, error = table.loc["all (3 of 15)", ["image/auroc", "image/auroc_se"]]
    assert mean == pytest.approx(100 * sum(values) / 3)
    assert error == pytest.approx(100 * pd.Series(values).sem())


@pytest.mark.parametrize(
    ("preset", "rows", "columns"),
    [
        ("table3_r18", ["bottle", "pill"], ["pixel/auroc_reference", "pixel/pro_difference"]),
        ("table5_efficientnet_b5", ["bottle", "pill"], ["image/auroc"]),
        ("table6", ["bottle", "pill"], ["pixel/auroc_se", "pixel/pro"]),
        ("table7", ["bottle", "pill"] * 2, ["cost/image_s_difference"]),
        ("table8", ["bottle", "pill"] * 2, ["cost/state_gb_difference"]),
    ],
)
def test_presets_write_the_paper_s_table_with_any_backbone(
    root: Path, tmp_path: Path, preset: str, rows: list[str], columns: list[str]
) -> None:
    small = [
        option for option in TINY if not option.startswith(("reduction", "preprocessing.crop"))
    ]
    folders = [f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}"]
    more = ["data.category=[bottle,pill]", "preprocessing.crop=56", f"data.root={root}"]
    main(["fit", f"experiment=paper/{preset}", *small, *more, *folders])
    table = pd.read_csv(tmp_path / "table.csv")
    assert [row for row in table["row"] if "all" not in row] == rows
    assert table[columns].notna().any().all()
    assert "paper" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "table.tex").is_file()
    assert not list(tmp_path.rglob("model.ckpt"))
    if preset == "table6":
        assert set(table["seeds"]) == {5}
    if preset in ("table7", "table8"):
        assert set(table["variant"]) == {"R18-Rd100", "WR50-Rd550"}
