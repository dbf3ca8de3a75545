"""AUPIMO as a run writes it, recall at a false-alarm rate, defects and intervals."""

import json
from functools import partial
from pathlib import Path

import pytest

from experiments.cli import main
from padim.per_image_overlap import aupimo
from runs import SMALL, rows
from trees import mvtec_tree


def read(path: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((path / "metrics.json").read_text())
    return found


def test_run_folder_holds_overlaps_and_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for category in ("widget", "gadget"):
        mvtec_tree(tmp_path / "data", category)
    # Two normal images of 64 x 64 px cannot resolve the bounds of the metric.
    monkeypatch.setattr("padim.metrics.aupimo", partial(aupimo, bounds=(0.01, 0.1)))
    options = ["metrics.bootstrap=100", "metrics.false_alarm_rate=0.1", "pictures=0"]
    options.append("table.metrics=[image/auroc,pixel/aupimo]")
    data = [f"data.root={tmp_path / 'data'}", "data.category=[widget,gadget]"]
    main(["fit", *SMALL, *options, *data, f"hydra.run.dir={tmp_path / 'run'}"])

    widget, means = read(tmp_path / "run" / "widget"), read(tmp_path / "run")
    assert widget["image/recall_at_far"] == 1
    assert 0 < widget["pixel/recall_at_far"] <= 1
    for name in ("image/auroc", "image/recall_at_far", "pixel/aupimo"):
        assert widget[f"{name}_ci_low"] <= widget[name] <= widget[f"{name}_ci_high"]
        assert name in means
    assert not [name for name in means if "_ci_" in name]  # no mean of intervals is an interval
    assert "AUPIMO" in (tmp_path / "run" / "table.md").read_text()

    overlaps = [row["aupimo"] for row in rows(tmp_path / "run/widget/predictions.csv")]
    assert overlaps[:2] == ["", ""]  # of normal images
    assert sum(map(float, overlaps[2:])) / 2 == pytest.approx(widget["pixel/aupimo"])

    good, spot = rows(tmp_path / "run/widget/defects.csv")
    assert (good["images"], good["auroc"], good["aupimo"]) == ("2", "", "")
    assert (spot["defect"], spot["images"], float(spot["auroc"])) == ("spot", "2", 1)
    assert float(spot["aupimo"]) == pytest.approx(widget["pixel/aupimo"])
