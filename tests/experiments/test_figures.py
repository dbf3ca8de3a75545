"""The figures on real images that the README states."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main


def test_bottle_reaches_the_literal_implementation(
    mvtec_256: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rd100 on the default backbone; a literal NumPy PaDiM gives 0.998, 0.977, 0.909."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    data = [f"data.root={mvtec_256}", "data.category=bottle"]
    main(["fit", "-m", *data, "seed=0,1,2", "pictures=0", f"hydra.sweep.dir={tmp_path}"])
    runs = [json.loads((tmp_path / job / "metrics.json").read_text()) for job in "012"]
    mean = {name: np.mean([run[name] for run in runs]) for name in runs[0]}
    assert mean["image/auroc"] >= 0.99
    assert mean["pixel/auroc"] >= 0.97
    assert mean["pixel/pro"] >= 0.90


def test_best_is_better_than_the_paper(
    mvtec_256: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The paper's settings give pill 0.76, 0.92, 0.86."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    data = [f"data.root={mvtec_256}", "data.category=pill"]
    options = ["experiment=best", "pictures=0", "save_model=false"]
    main(["fit", *options, *data, f"hydra.run.dir={tmp_path}"])
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["image/auroc"] >= 0.93
    assert found["pixel/auroc"] >= 0.96
    assert found["pixel/pro"] >= 0.945
    assert 0 < found["shrinkage/amount"] < 1
    assert (tmp_path / "shrinkage.png").is_file()
