"""A GPU gives what the CPU gives."""

import pytest
import torch

from padim import Backbone, Calibration, PaDiM, RandomChannels, merge

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FLOAT32 = 1e-4
"""Relative error of scores: TF32 of the convolutions is off, only sums are in another order."""

BF16 = 0.02
"""The same under autocast, whose mantissa has 8 bits: four times what it costs on the CPU."""


def images(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 64, 64), dtype=torch.uint8, generator=generator)


FIRST, SECOND, NEW = images(40, 0), images(30, 1), images(5, 2)


def fitted(x: torch.Tensor, device: str, bf16: bool = False) -> PaDiM:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", [1, 2, 3], "random", (64, 64), bf16=bf16)
    model = PaDiM(backbone, RandomChannels(20), calibration=Calibration(32, 0.1)).to(device)
    for batch in x.to(device).split(16):
        model.update(batch)
    model.finalize()
    return model


def assert_same_scores(found: PaDiM, expected: PaDiM, tolerance: float) -> None:
    scores, maps = found(NEW.cuda())
    assert scores.is_cuda
    assert maps.is_cuda
    true_scores, true_maps = expected(NEW)
    torch.testing.assert_close(scores.cpu(), true_scores, rtol=tolerance, atol=0)
    peak = float(true_maps.max())
    torch.testing.assert_close(maps.cpu(), true_maps, rtol=0, atol=tolerance * peak)


@pytest.fixture
def _without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.usefixtures("_without_tf32")
def test_fit_and_scores() -> None:
    found, expected = fitted(FIRST, "cuda"), fitted(FIRST, "cpu")
    assert_same_scores(found, expected, FLOAT32)
    torch.testing.assert_close(
        found.calibration.scores.cpu(), expected.calibration.scores, rtol=FLOAT32, atol=0
    )


@pytest.mark.usefixtures("_without_tf32")
def test_merge() -> None:
    found = fitted(FIRST, "cuda")
    merge(found, fitted(SECOND, "cuda"))
    found.finalize()
    assert_same_scores(found, fitted(torch.cat([FIRST, SECOND]), "cpu"), FLOAT32)


@pytest.mark.usefixtures("_without_tf32")
def test_a_loaded_model_grows() -> None:
    first = fitted(FIRST, "cpu")
    grown = []
    for device in ("cuda", "cpu"):
        model = PaDiM.from_config(first.config)
        model.load_state_dict(first.state_dict())
        model.to(device).update(SECOND.to(device))
        model.finalize()
        grown.append(model)
    found, expected = grown
    assert_same_scores(found, expected, FLOAT32)
    scores = found.calibration.scores, expected.calibration.scores
    torch.testing.assert_close(scores[0].cpu(), scores[1], rtol=FLOAT32, atol=0)


def test_bf16_autocast() -> None:
    assert_same_scores(fitted(FIRST, "cuda", bf16=True), fitted(FIRST, "cpu"), BF16)
