"""The report of a run and of a sweep, read as files and opened in a browser."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from experiments.cli import main
from experiments.report.runs import best, comparable
from experiments.tables.results import Result
from runs import SMALL, failure, rows
from trees import mvtec_tree

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

OPTIONS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1280,900"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root, train=8)
    return root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    options = [f"data.root={root}", f"hydra.run.dir={run}", "pictures_by_level=true"]
    main(["fit", *SMALL, *options])
    main(["report", str(run)])
    return run


@pytest.fixture(scope="module")
def sweep(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sweep = tmp_path_factory.mktemp("sweeps") / "sweep"
    grid = ["backbone.layers=[1],[1,2]", "reduction.d=4,12", "pictures=2"]
    main(["fit", "-m", *SMALL, f"data.root={root}", f"hydra.sweep.dir={sweep}", *grid])
    main(["report", str(sweep)])
    return sweep


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in [*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


def wait(browser: webdriver.Chrome, script: str) -> None:
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(f"return {script}"))


def errors(browser: webdriver.Chrome) -> list[str]:
    return [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def open_page(browser: webdriver.Chrome, page: Path) -> None:
    """Opened and drawn; nothing went wrong and nothing was asked of a network."""
    browser.get_log("performance")
    browser.get(page.as_uri())
    wait(browser, "all('.plot').filter(p => p.offsetParent).every(p => p.querySelector('svg'))")
    wait(browser, "all('.run:not([hidden]) canvas').every(c => c.width !== 300)")
    assert errors(browser) == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {
        m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in urls if not url.startswith(("data:", "blob:"))} == {page.as_uri()}


def counts(browser: webdriver.Chrome) -> dict[str, str]:
    cells = browser.find_elements(By.CSS_SELECTOR, ".run:not([hidden]) [data-count]")
    return {cell.get_attribute("data-count"): cell.text for cell in cells}


def threshold(browser: webdriver.Chrome) -> float:
    return float(
        browser.find_element(By.CSS_SELECTOR, ".run:not([hidden]) .at").get_attribute("value")
    )


def expected_counts(run: Path, at: float) -> dict[str, str]:
    n = dict.fromkeys(("tp", "fn", "fp", "tn"), 0)
    for row in rows(run / "predictions.csv"):
        found, anomalous = float(row["score"]) >= at, row["label"] == "1"
        n[("tp" if anomalous else "fp") if found else ("fn" if anomalous else "tn")] += 1
    return {name: str(number) for name, number in n.items()}


def shares_masked(browser: webdriver.Chrome) -> dict[str, float]:
    """Of each picture, the share of the canvas that is covered, by the name in its title."""
    return browser.execute_script("""
        return Object.fromEntries(all('.card').map(card => {
            const canvas = card.querySelector('canvas');
            const {width, height} = canvas;
            const rgba = canvas.getContext('2d').getImageData(0, 0, width, height).data;
            let n = 0;
            for (let i = 3; i < rgba.length; i += 4) n += rgba[i] > 0;
            return [card.querySelector('.what').textContent, n / (width * height)];
        }))""")


def expected_shares(run: Path, at: float) -> dict[str, float]:
    gallery = json.loads((run / "gallery" / "gallery.json").read_text())
    span = np.log(gallery["top"] / gallery["bottom"])
    shares = {}
    for image in gallery["images"]:
        levels = np.asarray(Image.open(run / "gallery" / f"{image['name']}_map.png"))
        scores = gallery["bottom"] * np.exp(levels / 255 * span)
        shares["/".join(Path(image["path"]).parts[-2:])] = float((scores >= at).mean())
    return shares


def test_the_slider_changes_masks_and_counts(browser: webdriver.Chrome, run: Path) -> None:
    open_page(browser, run / "report.html")
    metrics = json.loads((run / "metrics.json").read_text())
    assert threshold(browser) == metrics["threshold/image"]  # saved, so calibrated
    browser.find_element(By.CSS_SELECTOR, "input[value=mask]").click()
    for name in ("contour", "truth"):
        browser.find_element(By.NAME, name).click()
    slider = browser.find_element(By.CSS_SELECTOR, ".threshold")
    seen = set()
    for keys in (Keys.HOME, Keys.PAGE_UP * 4, Keys.PAGE_UP * 2, Keys.ARROW_RIGHT, Keys.END):
        slider.send_keys(keys)
        at = threshold(browser)
        found = counts(browser)
        assert {name: found[name] for name in ("tp", "fn", "fp", "tn")} == expected_counts(run, at)
        seen.add(tuple(found.values()))
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        # The canvas has the size of the page, not of the map.
        assert shares_masked(browser) == pytest.approx(expected_shares(run, at), abs=0.01)
    assert found["tp"] == found["fp"] == "0"
    assert len(seen) > 3
    assert errors(browser) == []


def test_what_a_picture_shows_can_be_chosen(browser: webdriver.Chrome, run: Path) -> None:
    open_page(browser, run / "report.html")
    pictures = set()
    choices = ["value=heat", "name=contour", "name=truth", "value=level0", "value=image"]
    for choice in choices:
        browser.find_element(By.CSS_SELECTOR, f"input[{choice}]").click()
        pictures.add(browser.execute_script("return all('canvas').map(c => c.toDataURL()).join()"))
    assert len(pictures) == len(choices)
    assert set(shares_masked(browser).values()) == {0}


def test_known_thresholds_are_a_click_away(browser: webdriver.Chrome, run: Path) -> None:
    open_page(browser, run / "report.html")
    metrics = json.loads((run / "metrics.json").read_text())
    for button in browser.find_elements(By.CSS_SELECTOR, ".mark"):
        button.click()
        assert threshold(browser) == metrics[button.get_attribute("data-mark")]
    shown = counts(browser)
    precision, recall = (
        float(shown[f"pixel_{name}"].split()[0]) for name in ("precision", "recall")
    )
    f1 = 2 * precision * recall / (precision + recall) / 100
    assert f1 == pytest.approx(metrics["pixel/f1_max"], abs=0.02)  # read off a thinned curve


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    cells = f"section:first-of-type table tbody td:nth-child({number})"
    return [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, cells)]


def test_the_table_of_a_sweep_sorts(browser: webdriver.Chrome, sweep: Path) -> None:
    open_page(browser, sweep / "report.html")
    headings = browser.find_elements(By.CSS_SELECTOR, "section:first-of-type thead th")
    names = [heading.text.split()[0] for heading in headings]
    assert names[:2] == ["backbone.layers", "reduction.d"]
    assert column(browser, 2) == ["4", "12", "4", "12"]
    for state in ("ascending", "descending"):
        headings[1].find_element(By.TAG_NAME, "button").click()
        expected = ["4", "4", "12", "12"] if state == "ascending" else ["12", "12", "4", "4"]
        assert column(browser, 2) == expected  # as numbers
        assert headings[1].get_attribute("aria-sort") == state
    headings[0].find_element(By.TAG_NAME, "button").click()
    assert column(browser, 1) == ["1", "1", "1+2", "1+2"]
    assert headings[1].get_attribute("aria-sort") == "none"
    assert errors(browser) == []


def test_a_sweep_is_compared_and_its_best_job_shown(browser: webdriver.Chrome, sweep: Path) -> None:
    open_page(browser, sweep / "report.html")
    groups = [
        h.text for h in browser.find_elements(By.CSS_SELECTOR, "[aria-labelledby=comparison] h3")
    ]
    assert groups[:3] == ["Against reduction.d", "Layers by d", "Against cost: state, MB"]
    legends = browser.find_elements(By.CSS_SELECTOR, ".legend span")
    assert {"1", "1+2"} <= {entry.text for entry in legends}
    numbered = [entry for entry in legends if entry.get_attribute("data-number")]
    assert len(numbered) == len(browser.find_elements(By.CSS_SELECTOR, ".textpoint")) > 0
    jobs = {}
    for job in range(4):
        metrics = json.loads((sweep / str(job) / "metrics.json").read_text())
        jobs[job] = np.mean([metrics[n] for n in ("image/auroc", "pixel/auroc", "pixel/pro")])
    note = browser.find_element(By.CSS_SELECTOR, "[aria-labelledby=detail] > .note").text
    assert f"Of the 4 jobs in {sweep}, job {max(jobs, key=jobs.get)} is shown" in note
    assert len(browser.find_elements(By.CSS_SELECTOR, ".card")) == 2


def test_a_sweep_that_still_runs_or_has_failed_jobs_says_so(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(sweep, tmp_path / "sweep")
    (copy / "sweep.csv").rename(tmp_path / "sweep.csv")
    (copy / "3" / "metrics.json").unlink()
    main(["report", str(copy)])
    line = f"The sweep in {copy} has not ended: 3 jobs have finished so far."
    assert line in (copy / "report.html").read_text()
    (tmp_path / "sweep.csv").rename(copy / "sweep.csv")
    main(["report", str(copy)])
    line = f"Of {copy}, these jobs have failed, see their fit.log: 3."
    assert line in (copy / "report.html").read_text()
    for file in copy.glob("*/metrics.json"):
        file.unlink()
    assert "no job of the sweep has finished" in failure(capsys, ["report", str(copy)])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_down_only(
    browser: webdriver.Chrome, run: Path, sweep: Path, scheme: str
) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        for folder in (run, sweep):
            open_page(browser, folder / "report.html")
            assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        ink = "getComputedStyle(document.body).color"
        plot = "getComputedStyle(document.querySelector('.xtitle')).fill"
        body, axis = browser.execute_script(f"return [{ink}, {plot}]")
        brightness = [np.mean([int(v) for v in re.findall(r"\d+", c)[:3]]) for c in (body, axis)]
        assert [b > 128 for b in brightness] == [scheme == "dark"] * 2
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_runs_are_compared_in_one_page(
    browser: webdriver.Chrome,
    run: Path,
    sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["report", str(run), str(sweep / "1")])
    open_page(browser, tmp_path / "report.html")
    chooser = browser.find_element(By.ID, "chosen")
    assert len(chooser.find_elements(By.TAG_NAME, "option")) == 2
    first = threshold(browser)
    chooser.send_keys(Keys.ARROW_DOWN)
    metrics = json.loads((sweep / "1" / "metrics.json").read_text())
    assert threshold(browser) == metrics["image/f1_max_threshold"] != first
    assert errors(browser) == []


def test_names_of_any_kind_are_text(browser: webdriver.Chrome, run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    name = "</script><script>alert(1)//"
    for file in (copy / "predictions.csv", copy / "gallery" / "gallery.json"):
        file.write_text(file.read_text().replace("spot", name))
    main(["report", str(copy), f"out={tmp_path / 'page.html'}"])
    open_page(browser, tmp_path / "page.html")
    cells = [cell.text for cell in browser.find_elements(By.CSS_SELECTOR, "article td:first-child")]
    assert cells == ["good", name]
    assert counts(browser)["tp"] == "2"


def test_an_old_run_says_what_is_missing(
    browser: webdriver.Chrome, run: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(old / "gallery")
    (old / "curves.csv").unlink()
    main(["report", str(old)])
    open_page(browser, old / "report.html")
    notes = [note.text for note in browser.find_elements(By.CSS_SELECTOR, "article .note")]
    assert [n for n in notes if "no curves.csv" in n]
    assert [n for n in notes if "no gallery/" in n]
    at = threshold(browser)
    expected = expected_counts(run, at)
    assert {k: v for k, v in counts(browser).items() if k in expected} == expected


def test_the_best_variant_has_the_best_mean_over_categories() -> None:
    aurocs = {
        (10, 0, "tile"): 0.99,
        (10, 0, "wood"): 0.5,
        (20, 0, "tile"): 0.8,
        (20, 1, "tile"): 0.9,
        (20, 0, "wood"): 0.8,
        (20, 1, "wood"): 0.9,
        (30, 0, "pill"): 0.6,  # measured on other images
    }
    results = [
        Result(c, {"reduction.d": d, "reduction.seed": s}, {"image/auroc": auroc})
        for (d, s, c), auroc in aurocs.items()
    ]
    shown = [
        (r.config["reduction.d"], r.seeds["reduction.seed"], r.category) for r in best(results)
    ]
    assert shown == [(20, 0, "tile"), (20, 0, "wood"), (30, 0, "pill")]


def test_equal_jobs_are_one_or_are_named_by_their_runs() -> None:
    def results(*aurocs: float) -> list[Result]:
        return [
            Result(
                "tile", {"reduction.d": 10 + i // 2}, {"image/auroc": auroc}, Path("runs", str(i))
            )
            for i, auroc in enumerate(aurocs)
        ]

    def named(*aurocs: float) -> list[str | None]:
        return [one.config.get("run") for one in comparable({Path("runs"): results(*aurocs)})]

    assert named(0.5, 0.5, 0.7) == [None, None]
    assert named(0.5, 0.6, 0.7) == ["runs/0", "runs/1", None]


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_packages_of_the_report_are_optional(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: str,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)  # other tests have imported it
    monkeypatch.delitem(sys.modules, "experiments.report.page", raising=False)
    monkeypatch.delattr("experiments.report.page", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "metrics.json").write_text('{"image/auroc": 1}')
    (tmp_path / "config.yaml").write_text("data: {category: widget}")
    message = f"a report needs {package}: pip install 'padim-lightning[report]'"
    assert message in failure(capsys, ["report", str(tmp_path)])


def test_what_is_no_run(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in failure(capsys, ["report", str(tmp_path / "nowhere")])
    assert "is no run, and holds none" in failure(capsys, ["report", str(tmp_path)])
    (tmp_path / "config.yaml").touch()
    assert "it had no test images or did not end" in failure(capsys, ["report", str(tmp_path)])
    (tmp_path / "config.yaml").write_text("data: {category: widget}")
    (tmp_path / "metrics.json").write_text("{}")  # of a fit without test images
    assert "it had no test images or did not end" in failure(capsys, ["report", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "metrics.json"}


@pytest.mark.parametrize("file", ["predictions.csv", "curves.csv", "gallery/gallery.json"])
def test_a_damaged_file_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / file).write_text("{")
    assert f"{copy / file} is damaged" in failure(capsys, ["report", str(copy)])
