"""Grids that are no products, and grids that grow."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.cli import main
from runs import TINY, failure, rows

ONE = ["backbone.layers=[1]", "reduction.d=4"]


def arguments(root: Path, folder: Path, *options: str) -> list[str]:
    return ["fit", "-m", *TINY, f"data.root={root}", f"hydra.sweep.dir={folder}", *options]


def settings(folder: Path, *keys: str) -> list[tuple[object, ...]]:
    """Of each job of a sweep, in order."""
    jobs = sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    configs = [OmegaConf.load(job / "config.yaml") for job in jobs]
    return [tuple(OmegaConf.select(config, key) for key in keys) for config in configs]


def test_values_in_pairs(widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paired = ["reduction.d=3,5", "backbone.layers=[1],[1,2]"]
    zipped = "sweep.zip=[reduction.d,backbone.layers]"
    main(arguments(widget.parent, tmp_path, *paired, "gaussian.eps=0.01,0.1", zipped))
    assert "4 jobs in 1 group" in capsys.readouterr().out
    found = settings(tmp_path, "gaussian.eps", "reduction.d", "backbone.layers")
    pairs = [(3, [1]), (5, [1, 2])]
    assert found == [(eps, *pair) for eps in (0.01, 0.1) for pair in pairs]


ZIPS = {
    "sweep.zip=[reduction.d,gaussian.eps]": "reduction.d has 2, gaussian.eps has 3",
    "sweep.zip=[reduction.d,map.sigma]": "names map.sigma, which is not given any values",
    "sweep.zip=reduction.d": "sweep.zip must be a list of keys",
}


@pytest.mark.parametrize("option", ZIPS)
def test_what_is_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    grid = ["reduction.d=3,5", "gaussian.eps=0.01,0.1,1"]
    assert ZIPS[option] in failure(capsys, arguments(tmp_path, tmp_path / "s", *grid, option))


VARIANTS = """
small: [reduction=random, "reduction.d=3"]
PCA: [reduction=pca, "reduction.d=2,4"]
all of it: [reduction=none]
"""


def test_named_variants(widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ablation.yaml"
    file.write_text(VARIANTS)
    options = ["backbone.layers=[1]", "gaussian.eps=0.1", f"sweep.variants={file}"]
    folder = tmp_path / "sweep"
    main(arguments(widget.parent, folder, *options))
    said = capsys.readouterr().out
    assert "4 jobs in 1 group" in said
    found = settings(folder, "table.variant", "reduction.d")
    assert found == [("small", 3), ("PCA", 2), ("PCA", 4), ("all of it", None)]
    table = rows(folder / "sweep.csv")
    assert [row["variant"] for row in table] == ["small", "PCA", "PCA", "all of it"]
    assert "all of it" in said


NO_VARIANTS = {
    "a: [b": "is no YAML",
    "[a, b]": "must map names to lists",
    "a: reduction=pca": "a must be a list of overrides",
    "a: ['reduction.dd=3']": "no key 'reduction.dd'",
}


@pytest.mark.parametrize("text", NO_VARIANTS)
def test_what_is_no_variant(
    widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "variants.yaml").write_text(text)
    options = [*ONE, f"sweep.variants={tmp_path / 'variants.yaml'}"]
    assert NO_VARIANTS[text] in failure(
        capsys, arguments(widget.parent, tmp_path / "sweep", *options)
    )


def test_variants_of_a_single_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*TINY, f"data.root={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}", *ONE]
    assert "add -m" in failure(capsys, ["fit", *options, "sweep.variants=ablation.yaml"])


def test_no_file_of_variants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = arguments(tmp_path, tmp_path / "sweep", *ONE, "sweep.variants=nowhere.yaml")
    assert "nowhere.yaml" in failure(capsys, options)


def test_a_grid_grows(widget: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["backbone.layers=[1],[1,2]", "reduction.d=3", "reduction.seed=0,1"]
    main(arguments(widget.parent, tmp_path, *grid))
    before = {job: (tmp_path / job / "metrics.json").stat().st_mtime_ns for job in "0123"}
    capsys.readouterr()
    main(["fit", f"resume={tmp_path}", "reduction.seed=1,0,2"])
    assert "4 jobs of 6 finished before, 2 to do" in capsys.readouterr().out
    for job, time in before.items():
        assert (tmp_path / job / "metrics.json").stat().st_mtime_ns == time
    found = settings(tmp_path, "backbone.layers", "reduction.seed")
    old = [([1], 0), ([1], 1), ([1, 2], 0), ([1, 2], 1)]
    assert found == [*old, ([1], 2), ([1, 2], 2)]
    assert len(rows(tmp_path / "sweep.csv")) == 6
    main(["fit", f"resume={tmp_path}"])
    assert "6 jobs of 6 finished before, 0 to do" in capsys.readouterr().out


def test_a_grid_gets_another_setting(widget: Path, tmp_path: Path, capsys) -> None:
    main(arguments(widget.parent, tmp_path, "backbone.layers=[1]", "reduction.d=3,4"))
    capsys.readouterr()
    main(["fit", f"resume={tmp_path}", "gaussian.eps=0.01,0.1"])
    assert "2 jobs of 4 finished before, 2 to do" in capsys.readouterr().out
    assert settings(tmp_path, "reduction.d", "gaussian.eps")[2:] == [(3, 0.1), (4, 0.1)]
