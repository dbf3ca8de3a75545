"""Variants compared with a baseline and ranked: figures equal SciPy's, notes name the test."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy.stats import friedmanchisquare, wilcoxon
from sklearn.metrics import roc_auc_score

from experiments.cli import main
from experiments.sweeps.table import SweepTable
from experiments.tables.differences import auroc_interval
from experiments.tables.ranks import critical_difference
from experiments.tables.result_table import Layout, ResultTable
from experiments.tables.results import Result
from runs import SMALL, failure
from trees import mvtec_tree

CATEGORIES = ("tile", "wood", "bottle", "pill", "cable")

REDUCTIONS = {"random": "RandomChannels", "pca": "PrincipalComponents", "none": "AllChannels"}


def result(
    reduction: str, value: float, seed: int = 0, category: str = "tile", d: int = 50
) -> Result:
    """One of a sweep; as in a fit, only random channels depend on a seed."""
    config = {
        "reduction._target_": f"padim.{REDUCTIONS[reduction]}",
        "seed": seed,
        "backbone.name": "net",
    }
    config |= {"reduction.seed": seed} if reduction == "random" else {}
    config |= {"reduction.d": d} if reduction != "none" else {}
    return Result(category, config, {"image/auroc": value, "cost/state_gb": d / 1e3})


def sweep(reductions: tuple[str, ...], seeds: int, seed: int = 0) -> list[Result]:
    generator = np.random.default_rng(seed)
    return [
        result(name, generator.uniform(0.5, 1), s, category)
        for name in reductions
        for s in range(seeds if name == "random" else 1)
        for category in CATEGORIES
    ]


def table(results: list[Result], **layout: object) -> ResultTable:
    return ResultTable(results, Layout("", ["image/auroc"], **layout))  # type: ignore[arg-type]


def row(shown: ResultTable, reduction: str, name: str = "all") -> pd.Series:
    rows = shown.numbers.set_index(["reduction._target_", "row"])
    return rows.loc[f"padim.{REDUCTIONS[reduction]}", name]


def values(results: list[Result], reduction: str) -> np.ndarray:
    """Seeds x categories."""
    found = [r.metrics["image/auroc"] for r in results if REDUCTIONS[reduction] in str(r.settings)]
    return np.array(found).reshape(-1, len(CATEGORIES))


def test_differences_are_paired_by_category_and_seed() -> None:
    results = sweep(("random", "pca"), 3)
    shown = table(results, baseline="reduction=pca")
    # PCA is the same with each seed.
    differences = (values(results, "random") - values(results, "pca")).ravel()
    found = row(shown, "random")
    assert found["image/auroc_to_baseline"] == pytest.approx(100 * differences.mean(), abs=1e-6)
    assert found["image/auroc_p"] == pytest.approx(wilcoxon(differences).pvalue, abs=1e-6)
    assert found["image/auroc_pairs"] == 15
    assert np.isnan(row(shown, "pca")["image/auroc_to_baseline"])
    text = shown.text()
    assert f"(p = {wilcoxon(differences).pvalue:.2g})" in text.markdown()
    notes = " ".join(text.notes)
    assert "mean difference to reduction=pca, paired by category and seed; pairs: 15." in notes
    assert "two-sided Wilcoxon signed-rank test" in notes


def test_only_pairs_that_both_have_count() -> None:
    results = [result("random", v, s) for s, v in ((0, 0.5), (1, 0.6), (2, 0.7))]
    other = [result("random", v, s, d=100) for s, v in ((1, 0.8), (2, 0.8), (5, 0.1))]
    shown = table(results + other, baseline="d=50")
    found = shown.numbers.set_index("reduction.d").loc["100"]
    assert found["image/auroc_to_baseline"] == pytest.approx(15)
    assert found["image/auroc_pairs"] == 2
    assert np.isnan(found["image/auroc_p"])
    assert "Fewer than 6 pairs: no test." in shown.notes
    assert "Wilcoxon" not in " ".join(shown.notes)


def predictions(path: Path, scores: np.ndarray, labels: np.ndarray) -> Path:
    images = [f"{i}.png" for i in range(len(scores))]
    frame = pd.DataFrame({"path": images, "label": labels, "defect": "x", "score": scores})
    frame.sample(frac=1, random_state=len(scores)).to_csv(path, index=False)
    return path


def test_of_one_category_and_seed_test_images_are_resampled(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], (20, 30))
    scores = generator.normal(labels, 1)
    scores = {"random": scores, "pca": scores + generator.normal(0, 1, 50)}
    results = []
    for name, of_run in scores.items():
        (tmp_path / name).mkdir()
        predictions(tmp_path / name / "predictions.csv", of_run, labels)
        one = result(name, float(roc_auc_score(labels, of_run)))
        results.append(Result(one.category, one.config, one.metrics, tmp_path / name))
    shown = table(results, baseline="reduction=random")
    found = row(shown, "pca", "tile")
    low, high = found["image/auroc_low"], found["image/auroc_high"]
    assert low < found["image/auroc_to_baseline"] < high
    # Resampled here by a loop of its own: ends of an interval of 2000 resamples spread by 0.3.
    above = {
        name: np.greater.outer(some[labels == 1], some[labels == 0])
        for name, some in scores.items()
    }
    expected = []
    for _ in range(2000):
        drawn = np.ix_(generator.integers(30, size=30), generator.integers(20, size=20))
        expected.append(100 * (above["pca"][drawn].mean() - above["random"][drawn].mean()))
    assert [low, high] == pytest.approx(np.percentile(expected, [2.5, 97.5]), abs=1)
    assert f"[{low:+.1f}, {high:+.1f}]" in shown.text().markdown()
    assert "bootstrap over the test images, 2000 resamples" in shown.notes[-1]
    assert low == row(table(results, baseline="reduction=random"), "pca", "tile")["image/auroc_low"]


def test_images_that_only_one_run_has_are_not_resampled(tmp_path: Path) -> None:
    labels = np.repeat([0, 1], 10)
    one = predictions(tmp_path / "one.csv", labels + 0.0, labels)
    assert auroc_interval(one, one) == (0, 0)
    assert auroc_interval(one, tmp_path / "none.csv") is None
    normal = predictions(tmp_path / "normal.csv", np.zeros(10), np.zeros(10, int))
    assert auroc_interval(one, normal) is None


@pytest.mark.parametrize(
    "baseline",
    [
        "reduction=pca,reduction.d=50",
        "reduction._target_=padim.PrincipalComponents,d=50",
        "d=50,reduction=PrincipalComponents",
    ],
)
def test_a_baseline_has_short_names(baseline: str) -> None:
    results = [result(name, 0.9, d=d) for name in ("random", "pca") for d in (50, 100)]
    assert table(results, baseline=baseline).baseline == 2


def test_layers_name_a_baseline_as_in_the_table() -> None:
    results = [
        Result("tile", {"backbone.layers": layers}, {"image/auroc": 0.9})
        for layers in (["a"], ["a", "b"])
    ]
    for name in ("a+b", "[a,b]"):
        assert table(results, baseline=f"backbone.layers={name}").baseline == 1


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            {"baseline": "reduction=variance"},
            r"table.baseline=reduction=variance is no row of the table",
        ),
        (
            {"baseline": "reduction=pca"},
            r"is 2 rows .*: reduction=RandomChannels\|PrincipalComponents, reduction.d=50\|100$",
        ),
        ({"baseline": "gaussian.eps=1"}, r"is no row"),
        ({"baseline": "random"}, r"is no row"),
        (
            {"by": ["score", "d"]},
            r"table.by names score, which does not vary; what does: reduction, reduction.d$",
        ),
        ({"by": ["d"], "baseline": "reduction=pca"}, r"is no row .* are: reduction.d=50\|100$"),
    ],
)
def test_what_selects_no_row_is_an_error(layout: dict[str, object], message: str) -> None:
    results = [result(name, 0.9, d=d) for name in ("random", "pca") for d in (50, 100)]
    with pytest.raises(ValueError, match=message):
        table(results, **layout)


def test_a_single_variant_has_no_baseline() -> None:
    # As in each job of a sweep that compares.
    assert (
        table([result("pca", 0.9)], baseline="reduction=random", by=["reduction"]).baseline is None
    )


def test_rows_by_a_factor_average_the_others() -> None:
    generator = np.random.default_rng(0)
    aurocs = {(d, s): generator.uniform(0.5, 1) for d in (50, 100) for s in (0, 1, 2)}
    results = [result("random", v, s, d=d) for (d, s), v in aurocs.items()]
    results += [result("pca", v, d=d) for d, v in ((50, 0.6), (100, 0.8))]
    shown = table(results, by=["reduction"], spread="sd")
    of_seed = 100 * np.array(list(aurocs.values())).reshape(2, 3).mean(0)
    found = row(shown, "random", "tile")
    assert found["image/auroc"] == pytest.approx(of_seed.mean(), abs=1e-6)
    assert found["image/auroc_sd"] == pytest.approx(of_seed.std(ddof=1), abs=1e-6)
    assert row(shown, "pca", "tile")["image/auroc"] == pytest.approx(70)
    assert shown.notes == [
        "net",
        "Averaged over reduction.d.",
        "Mean ± standard deviation over 3 seeds.",
    ]


def test_what_has_no_seed_is_averaged_with_each() -> None:
    results = [result("random", 0.5, 0), result("random", 0.7, 1), result("pca", 0.8)]
    eps = [
        Result(r.category, r.config | {"gaussian.eps": e}, r.metrics)
        for e in (0.1, 1)
        for r in results
    ]
    numbers = table(eps, by=["gaussian"]).numbers
    assert list(numbers["gaussian.eps"]) == ["0.1", "1"]
    assert list(numbers["image/auroc"]) == pytest.approx([70, 70])
    assert list(numbers["image/auroc_se"]) == pytest.approx([5, 5])


def test_ranks_over_categories() -> None:
    results = sweep(("random", "pca", "none"), 2)
    shown = table(results, by=["reduction"])
    scores = np.stack([values(results, name).mean(0) for name in REDUCTIONS], axis=1)
    ranks = (-scores).argsort(1).argsort(1).mean(0) + 1
    p = friedmanchisquare(*scores.T).pvalue
    (note,) = (note for note in shown.notes if "ranks" in note)
    for name, rank in zip(REDUCTIONS.values(), ranks, strict=True):
        assert f"{rank:.2f} {name}" in note
    assert f"p = {p:.2g};" in note
    assert "over 5 categories" in note
    assert not [n for n in table(results[:-1], by=["reduction"]).notes if "ranks" in n]
    assert not [n for n in table(sweep(("random", "pca"), 2)).notes if "ranks" in n]


@pytest.mark.parametrize(("variants", "quantile"), [(3, 2.343), (4, 2.569), (10, 3.164)])
def test_critical_difference_is_that_of_the_paper(variants: int, quantile: float) -> None:
    """Demšar's table 5a, rounded to three digits."""
    expected = quantile * np.sqrt(variants * (variants + 1) / (6 * 14))
    assert critical_difference(variants, 14) == pytest.approx(expected, abs=1e-3)


def test_the_best_of_each_column_is_bold() -> None:
    results = [result("random", 0.9), result("pca", 0.95, d=80), result("none", 0.9501, d=200)]
    layout = Layout("Sweep of 50 %", ["image/auroc", "cost/state_gb"], by=["reduction"])
    text = ResultTable(results, layout).text()
    assert text.best is not None
    assert text.best.to_numpy().tolist() == [[False, True], [True, False], [True, False]]
    assert " **95.0** |" in text.markdown()
    assert "**90.0**" not in text.markdown()
    latex = text.latex()
    assert r"RandomChannels & 90.0 & \textbf{0.050}" in latex
    assert r"\caption{Sweep of 50 \%}" in latex
    assert r"\label{tab:sweep-of-50}" in latex
    lines = latex.splitlines()
    assert lines.index(r"\end{tabular}") < lines.index(r"\par\footnotesize net") < len(lines) - 1


def test_latex_compiles(tmp_path: Path) -> None:
    compiler = next(filter(shutil.which, ("pdflatex", "lualatex", "xelatex", "tectonic")), None)
    if compiler is None:
        pytest.skip("needs a LaTeX")
    results = sweep(("random", "pca", "none"), 2)
    body = (
        ResultTable(results, Layout(r"50 % of_all~^\ {x}", ["image/auroc"], baseline="d=none"))
        .text()
        .latex()
    )
    packages = r"\usepackage{booktabs}"
    (tmp_path / "a.tex").write_text(
        rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    )
    options = [] if compiler == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    subprocess.run([compiler, *options, "a.tex"], cwd=tmp_path, check=True, capture_output=True)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two reductions with two seeds from one pass."""
    folder = tmp_path_factory.mktemp("swept")
    mvtec_tree(folder / "data", train=8)
    own = [f"data.root={folder / 'data'}", f"hydra.sweep.dir={folder / 'sweep'}", "pictures=0"]
    shown = ['table.baseline="reduction=random"', "table.by=[reduction]", "table.spread=sd"]
    main(["fit", "-m", *SMALL, *own, *shown, "reduction=random,pca", "seed=0,1"])
    return folder / "sweep"


@pytest.mark.slow
def test_a_sweep_ends_in_differences(swept: Path) -> None:
    rows = pd.read_csv(swept / "sweep.csv")
    long = pd.read_csv(swept / "results.csv")
    keys = {"run", "category", "reduction._target_", "reduction.order", "seed", "reduction.seed"}
    assert {*long.columns} == {*keys, "metric", "value"}
    wide = long.pivot(index="run", columns="metric", values="value")
    pd.testing.assert_frame_equal(
        wide, rows.set_index("run")[[*wide]], check_names=False, check_exact=True
    )
    shown = pd.read_csv(swept / "table.csv").set_index("reduction._target_")
    of = 100 * rows.set_index(["reduction._target_", "seed"])["image/auroc"]
    random, pca = of.loc["padim.RandomChannels"], of.loc["padim.PrincipalComponents"]
    difference = shown.loc["padim.PrincipalComponents", "image/auroc_to_baseline"]
    assert difference == pytest.approx((pca - random).mean(), abs=1e-6)
    spread = shown.loc["padim.RandomChannels", "image/auroc_sd"]
    assert spread == pytest.approx(random.std(), abs=1e-6)
    assert "paired by category and seed; pairs: 2." in (swept / "table.md").read_text()


@pytest.mark.slow
def test_the_report_has_the_same_table(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(swept)])
    page = (swept / "report.html").read_text()
    assert "image AUROC, to baseline" in page
    assert "mean difference to reduction=random" in page
    assert "standard deviation" in page
    main(["report", str(swept), 'table.baseline="reduction=pca"', "table.spread=sem"])
    page = (swept / "report.html").read_text()
    assert "mean difference to reduction=pca" in page
    assert "standard error" in page
    error = failure(capsys, ["report", str(swept), 'table.baseline="reduction=none"'])
    assert "is no row of the table" in error
    assert "reduction=RandomChannels|PrincipalComponents" in error


@pytest.mark.slow
def test_a_sweep_with_a_wrong_baseline_keeps_its_table(
    swept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = OmegaConf.load(swept / "0" / "config.yaml")
    config.table.baseline = "reduction=none"
    config.hydra = {"sweep": {"dir": str(swept)}}
    SweepTable().on_multirun_end(config)
    assert "table.baseline=reduction=none is no row of the table" in caplog.text
    assert len(pd.read_csv(swept / "table.csv")) == 2
