"""padim predict --watch: files as they arrive."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.scoring.watch import Arrivals
from predicting import column, predict


class Line:
    """What happens at a line while `watch` sleeps; Ctrl-C in the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
        self.steps = iter(steps)
        self.slept: list[float] = []
        monkeypatch.setattr("experiments.scoring.watch.sleep", self)

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        step = next(self.steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()


@pytest.mark.usefixtures("calibrated")
def test_watch(
    run: Path,
    widget: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, spot = ((widget / "test" / kind / "000.png").read_bytes() for kind in ("good", "spot"))
    line, out = tmp_path / "line", tmp_path / "line" / "out"  # its own pictures lie below
    line.mkdir()
    (line / "before.png").write_bytes(good)
    seen: list[list[str]] = []

    def put(name: str, content: bytes) -> Callable[[], object]:
        return lambda: (line / name).write_bytes(content)

    def look() -> None:
        seen.append(list(column(out, "verdict")))

    Line(
        monkeypatch,
        put("slow.png", spot[:500]),
        put("slow.png", spot[:900]),  # it grows
        put("slow.png", spot),
        look,
        look,  # by now it has been the same for a whole interval
        put("broken.png", b""),
        look,
        look,
        put("broken.png", good),
        look,
        look,
        put("Größe, neu.png", good),
        look,
        look,
    )
    status = predict(run, out, line, "--watch", "interval=0.5", "--fail-on-anomaly", "--strict")
    assert status == 3  # what was broken has been mended
    names = ["before.png", "slow.png", "broken.png", "Größe, neu.png"]
    assert seen == [names[:count] for count in (1, 2, 2, 2, 2, 3, 3, 4)]
    assert list(column(out, "verdict").values()) == ["normal", "anomalous", "normal", "normal"]
    printed = capsys.readouterr()
    lines = [text.split(maxsplit=1)[1] for text in printed.out.splitlines()]
    assert [text.split()[0] for text in lines] == ["anomalous", "skipped", "normal", "normal"]
    assert lines[0].split() == [
        *("anomalous", "p", "0.125", "score", f"{float(column(out, 'score')['slow.png']):.4g}"),
        str(line / "slow.png"),
    ]
    assert f"{line / 'broken.png'}: the file is empty" in lines[1]
    assert "1 of 4 are anomalous" in printed.err
    assert len(list((out / "pictures").iterdir())) == 4
    written = json.loads((out / "predictions.json").read_text())
    assert [Path(entry["path"]).name for entry in written["predictions"]] == names
    assert written["skipped"] == [{"path": str(out), "reason": "of a run"}]


@pytest.mark.usefixtures("calibrated")
def test_watch_an_empty_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Line(monkeypatch)
    assert predict(run, tmp_path / "out", tmp_path, "--watch", "interval=3", "--strict") == 0
    assert line.slept == [3]
    assert predict(run, tmp_path / "b", tmp_path / "none", "--watch") == 1
    assert predict(run, tmp_path / "c", tmp_path, "--watch", "interval=0") == 1
    said = capsys.readouterr().err
    assert f"Error: {tmp_path / 'none'}: no images or videos found" in said
    assert "Error: interval must be a number above 0, such as 0.01, got 0" in said


@pytest.mark.usefixtures("uncalibrated")
def test_watch_without_calibration(
    run: Path, widget: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, out = tmp_path / "line", tmp_path / "out"
    line.mkdir()
    content = (widget / "test" / "spot" / "000.png").read_bytes()

    def put(name: str) -> Callable[[], object]:
        return lambda: (line / name).write_bytes(content)

    Line(monkeypatch, put("a.png"), lambda: None, put("b.png"), lambda: None)
    assert predict(run, out, line, "--watch") == 0
    first, second = sorted((out / "pictures").iterdir())
    assert (first.name, second.name) == ("00000_a.png", "00001_b.png")


def test_arrivals(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file comes once, whatever happens to the folder, and again if it has changed."""
    line = tmp_path / "line"
    line.mkdir()
    found: list[Path] = []

    def find() -> list[Path]:
        if not line.exists():
            raise OSError("the share is lost")
        return found

    arrivals = Arrivals(find)
    a, gone = line / "a", line / "gone"
    a.write_text("1")
    found += [a, gone]  # one is removed after it was listed
    assert arrivals.all() == [a]
    assert arrivals.look() == []
    a.write_text("12")
    assert arrivals.look() == []
    assert arrivals.look() == [a]
    line.rename(tmp_path / "away")
    assert arrivals.look() == arrivals.look() == []
    assert caplog.messages == ["the share is lost"]
    (tmp_path / "away").rename(line)
    assert arrivals.look() == arrivals.look() == []
