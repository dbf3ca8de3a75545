"""Model files, run by the runtimes that they are for."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch

import padim
from padim import (
    AllChannels,
    AnomalyMap,
    Backbone,
    Calibration,
    Deployment,
    DeploymentError,
    ImageScore,
    PaDiM,
    PatchGaussian,
    PrincipalComponents,
    RandomChannels,
    VarianceChannels,
)
from padim.deployment import SUFFIXES, difference, export, run_file

pytestmark = pytest.mark.slow

SIZE = (64, 96)
RATE = 0.3


def images(n: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, *SIZE), dtype=torch.uint8, generator=generator)


def fitted(patch_pooling: int = 1, bf16: bool = False, **parts: object) -> PaDiM:
    torch.manual_seed(0)
    options = {"patch_pooling": patch_pooling, "bf16": bf16}
    defaults = {
        "reduction": RandomChannels(20),
        "calibration": Calibration(false_alarm_rate=RATE),
    }
    backbone = Backbone("test_resnet", [1, 2], "random", SIZE, **options)
    model = PaDiM(backbone, **{**defaults, **parts})
    model.update(images(30, seed=0))
    model.finalize()
    return model


def deployed(half: bool = False, pixels: str = "uint8", **parts: object) -> Deployment:
    model = fitted(**parts)
    assert model.calibration is not None
    return Deployment(model, model.calibration.threshold(RATE), half, pixels)


class Exported(NamedTuple):
    """A model file, and what it was made from."""

    path: Path
    deployment: Deployment


KINDS: dict[str, tuple[str, Callable[[], Deployment]]] = {
    "onnx, half": (
        "onnx",
        lambda: deployed(
            half=True,
            patch_pooling=3,
            reduction=VarianceChannels(20),  # of the first layer alone
            gaussian=PatchGaussian(ensemble="sum"),
            anomaly_map=AnomalyMap(0, "bilinear"),
            image_score=ImageScore("max_raw"),
        ),
    ),
    "onnx, float": (
        "onnx",
        lambda: deployed(
            pixels="float",
            reduction=PrincipalComponents(20),
            gaussian=PatchGaussian(shrinkage=0.2),
            image_score=ImageScore("topk_mean"),
        ),
    ),
    "torch": ("torch", lambda: deployed(reduction=AllChannels())),
}


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    format, make = KINDS[request.param]
    deployment = make()
    path = tmp_path_factory.mktemp("files") / f"model{SUFFIXES[format]}"
    export(deployment, path, format, {"preparation": {"resize": [72, 104]}})
    return Exported(path, deployment)


@pytest.mark.parametrize("batch", [1, 5])
def test_file_gives_what_pytorch_gives(exported: Exported, batch: int) -> None:
    path, deployment = exported
    x = images(batch)
    found = run_file(path, x / 255 if deployment.pixels == "float" else x)
    kept, score = deployment.model.calibration.scores, found["score"]
    scores, maps = deployment.model(x)
    rtol = 1e-5 if path.suffix == ".pt2" else 1e-4
    torch.testing.assert_close(score, scores, rtol=rtol, atol=0)
    torch.testing.assert_close(found["anomaly_map"], maps, rtol=rtol, atol=0)
    p_values = [(1 + np.sum(kept.numpy() >= s)) / (1 + len(kept)) for s in score.numpy()]
    np.testing.assert_allclose(found["p_value"], p_values, rtol=1e-6)
    assert found["verdict"].tolist() == [s >= deployment.threshold for s in score.tolist()]


def test_file_says_what_it_is(exported: Exported) -> None:
    path, deployment = exported
    if path.suffix == ".onnx":
        text = {p.key: p.value for p in onnx.load(path).metadata_props}["padim"]
    else:
        extra = {"padim": ""}
        torch.export.load(path, extra_files=extra)
        text = extra["padim"]
    about = json.loads(text)
    assert about["image_size"] == list(SIZE)
    assert about["preparation"] == {"resize": [72, 104]}
    assert about["threshold"] == deployment.threshold
    assert about["config"] == json.loads(json.dumps(deployment.model.config))
    assert about["channels"]["layer1"] == deployment.model.channels[0].tolist()


def test_file_holds_nothing_of_the_fit_nor_of_the_machine(exported: Exported) -> None:
    path, deployment = exported
    assert str(Path(padim.__file__).parent).encode() not in path.read_bytes()
    needed = sum(t.nbytes for t in (*deployment.parameters(), *deployment.buffers()))
    if path.suffix == ".onnx":
        graph = onnx.load(path).graph
        stored = sum(len(tensor.raw_data) for tensor in graph.initializer)
    else:
        program = torch.export.load(path)
        tensors = [*program.state_dict.values(), *program.constants.values()]
        stored = sum(tensor.nbytes for tensor in tensors)
    assert 0.5 * needed < stored <= needed  # of channels not used, and of an unused level, nothing
    assert not [name for name, _ in deployment.named_buffers() if "statistics" in name]


def test_verdicts_are_p_values_up_to_the_rate() -> None:
    judged = deployed()(images(20))
    assert 0 < judged["verdict"].sum() < 20
    assert torch.equal(judged["verdict"], judged["p_value"] <= RATE)


def test_whitening_in_16_bits_costs_little() -> None:
    model = fitted()
    half = Deployment(model, half=True)
    for pair in model.levels.pairs():
        exact = model.gaussian.whitening(*pair)
        step = exact.abs().amax(dim=2, keepdim=True) / 32767
        assert half.model.gaussian.get_buffer(f"whitening_{pair[0]}_{pair[1]}").dtype == torch.int16
        assert (half.model.gaussian.whitening(*pair) - exact).abs().le(0.51 * step).all()
    scores, maps = model(images(5))
    torch.testing.assert_close(half(images(5))["anomaly_map"], maps, rtol=1e-3, atol=0)
    torch.testing.assert_close(half(images(5))["score"], scores, rtol=1e-3, atol=0)


def test_what_is_deployed_computes_in_float32() -> None:
    model = fitted(bf16=True)
    same = fitted()
    same.load_state_dict(model.state_dict())
    x = images(1)
    assert torch.equal(Deployment(model)(x)["score"], same(x).scores)
    assert not torch.equal(model(x).scores, same(x).scores)


def test_difference_is_that_of_the_worst_output(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = deployed()

    def found_off(**by: float) -> float:
        def run(_: Path, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {k: v.float() + by.get(k, 0) for k, v in ours(x).items()}

        monkeypatch.setattr("padim.deployment.run_file", run)
        return difference(Path("model.onnx"), ours)

    expected = ours(ours.noise(3))
    assert found_off() == 0
    mean = expected["anomaly_map"].mean().item()
    assert found_off(anomaly_map=0.01) == pytest.approx(0.01 / mean, rel=1e-3)
    assert found_off(score=-0.01) == pytest.approx(0.01 / expected["score"].mean().item(), rel=1e-3)
    assert found_off(p_value=0.1) > 0.1
    assert found_off(verdict=1) >= 1
    assert math.isnan(found_off(anomaly_map=math.nan))
    monkeypatch.setattr("padim.deployment.run_file", lambda *_: {"score": expected["score"]})
    with pytest.raises(DeploymentError, match="gives score, not anomaly_map, score, p_value"):
        difference(Path("model.onnx"), ours)


def test_errors_say_what_can_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = deployed()
    with pytest.raises(ValueError, match=r"format is 'tflite'; choose one of onnx, torch"):
        export(ours, tmp_path / "model.onnx", "tflite")
    with pytest.raises(ValueError, match=r"format=torch is written to \*\.pt2, not to .*\.onnx"):
        export(ours, tmp_path / "model.onnx", "torch")
    with pytest.raises(ValueError, match="pixels is 'int8'; choose one of uint8, float"):
        Deployment(ours.model, pixels="int8")
    with pytest.raises(ValueError, match="not fitted"):
        Deployment(PaDiM(Backbone("test_resnet", [1], "random", SIZE), RandomChannels(3)))
    monkeypatch.setattr("padim.deployment.LARGEST_ONNX", 1000)
    with pytest.raises(ValueError, match="choose half=true or format=torch"):
        export(ours, tmp_path / "model.onnx", "onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DeploymentError, match=r"pip install 'padim-lightning\[export\]'"):
        export(ours, tmp_path / "model.onnx", "onnx")
    assert not list(tmp_path.iterdir())
