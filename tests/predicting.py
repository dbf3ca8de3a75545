"""What tests of padim predict share."""

from pathlib import Path

import pytest
import torch

from experiments.cli import main
from padim import Calibration, LitPaDiM, load_checkpoint
from runs import rows

RATE = 0.25
"""Of false alarms, as stored with the model."""


def calibration() -> Calibration:
    """The normal images of `widget` score below 0.2, those with a spot above 0.9."""
    made = Calibration(false_alarm_rate=RATE)
    made.scores = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4])
    made.peaks = made.scores * 1.2
    made.means = made.scores / 2
    made.tail.fill_(0.3)
    return made


def predict(model: Path, out: Path, *arguments: object) -> int:
    """The exit status."""
    more = ["trainer=cpu", "loading.num_workers=0", f"hydra.run.dir={out}"]
    try:
        main(["predict", str(model), *map(str, arguments), *more])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def column(out: Path, key: str) -> dict[str, str]:
    """A column of scores.csv by the name of the file."""
    return {Path(row["path"]).name: row[key] for row in rows(out / "scores.csv")}


def load_with(monkeypatch: pytest.MonkeyPatch, calibration: Calibration | None) -> None:
    """Have `padim predict` load models with another calibration."""

    def load(path: str) -> LitPaDiM:
        module = load_checkpoint(path)
        module.model.calibration = calibration
        return module

    monkeypatch.setattr("experiments.predict.load_checkpoint", load)
