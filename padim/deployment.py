"""A fitted model as a file that runs without this project: ONNX or torch.export."""

import copy
import importlib
import json
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from padim.gaussian import PatchGaussian
from padim.model import PaDiM

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""Of each format."""

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
"""Packages that writing and checking a format needs besides PyTorch."""

PIXELS = ("uint8", "float")

METADATA = "padim"
"""The entry of a file that holds its metadata as JSON."""

LARGEST_ONNX = 2**31
"""Bytes that an ONNX file can have, as protobuf counts no further."""


class DeploymentError(RuntimeError):
    """A file cannot be written, or does not give what the model gives."""


class Deployment(nn.Module):
    """A fitted model as a file holds it: from pixels to a verdict, and nothing of the fit.

    All is computed in float32, also what the model has bfloat16 for.

    Args:
        model: fitted, on the CPU; its tensors are shared.
        threshold: lowest anomalous score; None for no verdict.
        half: store the whitening, which is most of a model, in 16 bits.
        pixels: what images hold: "uint8", or "float" for float32 from 0 to 1.

    Raises:
        ValueError: the model is not fitted, or there is no such kind of pixels.
    """

    def __init__(
        self,
        model: PaDiM,
        threshold: float | None = None,
        half: bool = False,
        pixels: str = "uint8",
    ) -> None:
        super().__init__()
        if not model.gaussian.fitted:
            raise ValueError("the model is not fitted: there is nothing to export")
        if pixels not in PIXELS:
            raise ValueError(f"pixels is {pixels!r}; choose one of {', '.join(PIXELS)}")
        self.threshold = threshold
        self.compressed = half
        self.pixels = pixels
        self.model = copy.copy(model)
        self.model._modules = {k: v for k, v in model._modules.items() if k != "statistics"}
        self.model.backbone = copy.copy(model.backbone)
        self.model.backbone.bf16 = False
        if half:
            self.model.gaussian = _HalfGaussian(model.gaussian)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Score RGB images (B, 3, H, W) of the size that the model was fitted for.

        Returns:
            "anomaly_map" (B, H, W) and "score" (B,), higher is more anomalous, and the outputs of
            `judge`.
        """
        pixels = images * 255 if self.pixels == "float" else images
        prediction = self.model.score(self.model.embed(self.model.backbone.features(pixels)))
        return {
            "anomaly_map": prediction.maps,
            "score": prediction.scores,
            **self.judge(prediction.scores),
        }

    def judge(self, scores: Tensor) -> dict[str, Tensor]:
        """Judge scores (B,).

        Returns:
            "p_value" (B,) of a calibrated model; "verdict" (B,), true for anomalous, where there
            is a threshold.
        """
        judged = {}
        if self.model.calibration is not None and self.model.calibration.rate is not None:
            judged["p_value"] = self.model.calibration.p_value(scores)
        if self.threshold is not None:
            judged["verdict"] = (scores < self.threshold).logical_not()  # NaN, too, is not normal
        return judged

    def noise(self, batch: int) -> Tensor:
        """Random images that `forward` takes, (batch, 3, H, W)."""
        generator = torch.Generator().manual_seed(0)
        size = (batch, 3, *self.model.backbone.image_size)
        if self.pixels == "float":
            return torch.rand(size, generator=generator)
        return torch.randint(256, size, dtype=torch.uint8, generator=generator)

    @property
    def metadata(self) -> dict[str, Any]:
        """The description that a file carries, as plain values."""
        layers = zip(self.model.backbone.layers, self.model.channels, strict=True)
        try:
            project = version("padim-lightning")
        except PackageNotFoundError:  # run from a checkout that is not installed
            project = None
        return {
            "version": project,
            "image_size": list(self.model.backbone.image_size),
            "pixels": "float32 RGB, 0 to 1" if self.pixels == "float" else "uint8 RGB",
            "threshold": self.threshold,
            "channels": {layer.name: kept.tolist() for layer, kept in layers},
            "half": self.compressed,
            "config": self.model.config,
        }


def export(
    deployment: Deployment, path: Path, format: str, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a model file, or replace it.

    Args:
        deployment: what is written.
        path: of the file, with the format's suffix.
        format: one of `SUFFIXES`.
        metadata: plain values to be said besides those of the deployment.

    Raises:
        ValueError: there is no such format, it has another suffix, or the model is too large.
        DeploymentError: a package is missing.
    """
    require(format)
    if path.suffix != SUFFIXES[format]:
        raise ValueError(f"format={format} is written to *{SUFFIXES[format]}, not to {path}")
    about = json.dumps({**deployment.metadata, **(metadata or {})})
    if format == "torch":
        with warnings.catch_warnings():  # channels-last weights are no "complete tensors" to it
            warnings.filterwarnings("ignore", "No complete tensor found")
            torch.export.save(_program(deployment), path, extra_files={METADATA: about})
        return
    nbytes = sum(t.nbytes for t in (*deployment.parameters(), *deployment.buffers()))
    if nbytes > LARGEST_ONNX:
        smaller = "" if deployment.compressed else "half=true or "
        raise ValueError(
            f"the model has {nbytes / 1e9:.1f} GB, and format={format} holds 2 at most: choose"
            f" {smaller}format=torch"
        )
    path.write_bytes(_onnx_model(deployment, about))


def run_file(path: Path, images: Tensor) -> dict[str, Tensor]:
    """Run a model file on images (B, 3, H, W), on the CPU."""
    if path.suffix == SUFFIXES["torch"]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            found: dict[str, Tensor] = torch.export.load(path).module()(images)
            return found
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {"images": images.numpy()})
    return dict(zip(names, map(torch.from_numpy, outputs), strict=True))


@torch.no_grad()
def difference(path: Path, deployment: Deployment) -> float:
    """Compare the outputs of a model file with those of PyTorch, on random images.

    Returns:
        The largest difference of a map or of a score, relative to their mean. p-values and verdicts
        are compared with those of the file's own scores.
    """
    images = deployment.noise(3)  # of another number than the file was made with
    found = run_file(path, images)
    expected = deployment(images) | deployment.judge(found["score"])
    if found.keys() != expected.keys():
        raise DeploymentError(f"{path} gives {', '.join(found)}, not {', '.join(expected)}")
    errors = []
    for name, value in expected.items():
        exact = value.double()
        scale = exact.abs().mean().clamp(min=1e-9)  # where all are 0
        errors.append((found[name].double() - exact).abs().max() / scale)
    return float(torch.stack(errors).max())


def require(format: str) -> None:
    """See to it that a format can be written.

    Raises:
        ValueError: there is no such format.
        DeploymentError: a package is missing.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format is {format!r}; choose one of {', '.join(SUFFIXES)}")
    for package in PACKAGES[format]:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise DeploymentError(
                f"format={format} needs a package that is missing ({error}):"
                " pip install 'padim-lightning[export]'"
            ) from error


class _HalfGaussian(PatchGaussian):
    """A fitted Gaussian whose whitening is stored in 16 bits, and computed with in 32.

    Integers with a step for each row: with float16 the distances are off by five times as much.

    Buffers:
        whitening_{l}_{m}: (G_l, d_l, d_m), int16.
        step_{l}_{m}: (G_l, d_l, 1).
    """

    def __init__(self, fitted: PatchGaussian) -> None:
        super().__init__(**fitted.config)
        assert fitted.levels is not None
        self.levels, self.around = fitted.levels, fitted.around
        for level in range(len(self.levels)):
            self._set(f"mean_{level}", fitted.get_buffer(f"mean_{level}"))
        for fine, coarse in self.levels.pairs():
            block = fitted.whitening(fine, coarse)
            # Padded, as a row can be empty or all zero.
            largest = F.pad(block.abs(), (0, 1), value=1e-30).amax(dim=2, keepdim=True)
            step = largest / torch.iinfo(torch.int16).max
            self._set(f"whitening_{fine}_{coarse}", (block / step).round().to(torch.int16))
            self._set(f"step_{fine}_{coarse}", step)

    def whitening(self, fine: int, coarse: int) -> Tensor:
        """(G_fine, d_fine, d_coarse), as of `PatchGaussian`."""
        step = self.get_buffer(f"step_{fine}_{coarse}")
        return self.get_buffer(f"whitening_{fine}_{coarse}").float() * step


@torch.no_grad()
def _program(deployment: Deployment) -> ExportedProgram:
    # A named size would have torch before 2.12 prove what it finds of it, such as B <= 4 B. And a
    # batch of one would be taken for a constant.
    program = torch.export.export(
        deployment,
        (deployment.noise(2),),
        dynamic_shapes={"images": {0: torch.export.Dim.DYNAMIC(min=1)}},
        strict=False,
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it has the paths of this machine
    return program


def _onnx_model(deployment: Deployment, about: str) -> bytes:
    import onnx

    program = _program(deployment)
    with torch.no_grad():
        names = list(deployment(deployment.noise(1)))
    exported = torch.onnx.export(
        program,
        dynamo=True,
        optimize=True,
        verbose=False,
        input_names=["images"],
        output_names=names,
    )
    assert exported is not None
    model = exported.model_proto
    # What the exporter notes of itself is longer than the graph.
    for part in (model, model.graph, *model.graph.node, *model.graph.input):
        del part.metadata_props[:]
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, {METADATA: about})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
