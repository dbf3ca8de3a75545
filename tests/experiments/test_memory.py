import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.cli import main
from experiments.running.memory import FitMemory, plan_memory
from padim import AllChannels, Backbone, Calibration, PaDiM, PatchGaussian, load_checkpoint
from runs import SMALL, failure
from trees import mvtec_tree

CPU = torch.device("cpu")
GB = 10**9


def with_free(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    memory = SimpleNamespace(available=int(free))
    monkeypatch.setattr("experiments.running.memory.psutil.virtual_memory", lambda: memory)


def test_needs_are_those_of_what_is_held() -> None:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", [1, 2], "random", (64, 64))
    model = PaDiM(backbone, AllChannels(), PatchGaussian(), calibration=Calibration(images=7))
    need = FitMemory.of(model, test_images=10, binned=False)
    assert need.channels == sum(layer.channels for layer in backbone.layers)
    model.update(torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8))
    model.finalize()
    assert need.statistics == sum(b.nbytes for b in model.statistics.buffers()) - 8
    whitening = [b for name, b in model.gaussian.named_buffers() if name != "amount"]
    assert need.statistics == sum(b.nbytes for b in whitening)
    assert need.sample == sum(x.nbytes for x in model.sample.embedding)
    assert need.metrics == 26 * 10 * 64 * 64
    assert FitMemory.of(model, 10, binned=True).metrics == 0
    assert FitMemory.of(PaDiM(backbone, AllChannels()), 10, binned=True).sample == 0


@pytest.mark.parametrize(
    ("free", "in_place"), [(30 * GB, False), (25 * GB, False), (24.9 * GB, True), (15 * GB, True)]
)
def test_covariances_are_factored_in_place_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: float, in_place: bool
) -> None:
    with_free(monkeypatch, free)
    with caplog.at_level(logging.INFO):
        assert plan_memory(FitMemory(1792, 10 * GB, 2 * GB, 3 * GB), CPU) == in_place
    assert "Memory: statistics of 1792 channels 10.00 GB, their covariances 10.00" in caplog.text
    assert ("take the place of the statistics" in caplog.text) == in_place


@pytest.mark.parametrize(
    ("need", "message"),
    [
        (FitMemory(1000, 8 * GB, 0, 0), r"8\.0 GB at least .* 2\.0 GB .* reduction.d of about 500"),
        (FitMemory(100, GB, GB, 90 * GB), r"92\.0 GB at least .*: choose metrics\.binned=true"),
        (FitMemory(100, GB, 4 * GB, 0), r"5\.0 GB at least .*: choose threshold\.images"),
    ],
)
def test_what_cannot_fit_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, need: FitMemory, message: str
) -> None:
    with_free(monkeypatch, 2 * GB)
    with pytest.raises(ValueError, match=message):
        plan_memory(need, CPU)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mvtec_tree(tmp_path)
    return tmp_path


def test_a_fit_in_place_gives_the_same(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["fit", *SMALL, f"data.root={root}", "pictures=0", "logger=none"]
    main([*command, f"hydra.run.dir={root / 'usual'}"])
    need = FitMemory.of(load_checkpoint(root / "usual").model, 4, binned=False)
    with_free(monkeypatch, need.on_device(in_place=True) + need.metrics)
    main([*command, f"hydra.run.dir={root / 'in_place'}"])
    assert "take the place of the statistics" in capsys.readouterr().err
    for name in ("predictions.csv", "curves.csv"):
        assert (root / "usual" / name).read_text() == (root / "in_place" / name).read_text()
    states = [load_checkpoint(root / run).state_dict() for run in ("usual", "in_place")]
    assert all(
        torch.equal(mine.nan_to_num(), theirs.nan_to_num())
        for mine, theirs in zip(*(state.values() for state in states), strict=True)
    )


def test_a_fit_that_is_too_large_says_so_before_it_starts(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 1000)
    monkeypatch.setattr("padim.LitPaDiM.training_step", lambda *_: pytest.fail("it has started"))
    run = root / "run"
    told = failure(
        capsys, ["fit", *SMALL, f"data.root={root}", f"hydra.run.dir={run}", "metrics.binned=true"]
    )
    assert "0.0 GB are free: choose" in told
    assert not (run / "model.ckpt").exists()
