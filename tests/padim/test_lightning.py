import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer

from datamodules import Loading, MVTec, Preprocessing
from padim import (
    AnomalyMap,
    Backbone,
    Calibration,
    CheckpointError,
    LitPaDiM,
    PaDiM,
    RandomChannels,
    load_checkpoint,
)
from trees import mvtec_tree

QUIET = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


@pytest.fixture
def data(tmp_path: Path) -> MVTec:
    mvtec_tree(tmp_path)
    return MVTec(tmp_path, "widget", Preprocessing(64, None), Loading(4, 0))


def make_module() -> LitPaDiM:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", [1, 2, 3], "random", image_size=(64, 64))
    return LitPaDiM(PaDiM(backbone, RandomChannels(20)), data={"resize": 64})


@pytest.fixture
def fitted(data: MVTec) -> tuple[Trainer, LitPaDiM]:
    trainer, module = Trainer(**QUIET), make_module()
    trainer.fit(module, datamodule=data)
    return trainer, module


def test_one_epoch_equals_updates_by_hand(fitted: tuple[Trainer, LitPaDiM], data: MVTec) -> None:
    model = make_module().model
    batches = list(data.train_dataloader())
    for batch in batches:
        model.update(batch["image"])
    model.finalize()
    images = batches[0]["image"]
    assert torch.equal(fitted[1](images).maps, model(images).maps)


def test_worker_processes_change_nothing(
    fitted: tuple[Trainer, LitPaDiM], data: MVTec, tmp_path: Path
) -> None:
    decoded = MVTec(tmp_path, "widget", Preprocessing(64, None), Loading(4, 2))
    trainer, module = Trainer(**QUIET), make_module()
    trainer.fit(module, datamodule=decoded)
    images = next(iter(data.test_dataloader()))["image"]
    assert torch.equal(module(images).maps, fitted[1](images).maps)


def test_phases_are_timed(fitted: tuple[Trainer, LitPaDiM]) -> None:
    seconds = fitted[1].seconds
    assert set(seconds) == {"decode", "backbone", "statistics", "covariances", "threshold"}
    assert all(value > 0 for value in seconds.values())


def test_no_warning_reaches_the_user(data: MVTec, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer, module = Trainer(**QUIET), make_module()
        trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
    # The CPU without workers is this test's own choice; LeafSpec is between torch and Lightning.
    expected = ("does not have many workers", "GPU available but not used", "LeafSpec")
    shown = [str(w.message) for w in caught]
    assert not [message for message in shown if not any(some in message for some in expected)]
    ours = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [message for message in ours if "random weights" not in message]


def test_metrics_have_their_names(fitted: tuple[Trainer, LitPaDiM], data: MVTec) -> None:
    trainer, module = fitted
    metrics = trainer.test(module, datamodule=data, verbose=False)[0]
    common = ("auroc", "ap", "f1_max", "f1_max_threshold")
    expected = {f"{group}/{name}" for group in ("image", "pixel") for name in common}
    costs = {"cost/fit_s", "cost/image_s", "cost/state_gb"}
    assert set(metrics) == expected | {"pixel/pro"} | costs
    assert metrics["cost/state_gb"] == module.model.statistics.nbytes / 1e9
    assert metrics["image/auroc"] == 1  # bright squares on a gradient
    assert metrics["pixel/auroc"] > 0.9


def test_testing_twice_does_not_count_twice(fitted: tuple[Trainer, LitPaDiM], data: MVTec) -> None:
    trainer, module = fitted
    first, second = (trainer.test(module, datamodule=data, verbose=False)[0] for _ in range(2))
    measured = [name for name in first if name != "cost/image_s"]
    assert {n: first[n] for n in measured} == {n: second[n] for n in measured}


@pytest.mark.parametrize("resolution", ["crop", "original"])
def test_no_pixel_of_an_image_without_known_mask_is_measured(
    fitted: tuple[Trainer, LitPaDiM], data: MVTec, resolution: str
) -> None:
    trainer, module = fitted
    data.preprocessing = replace(data.preprocessing, resolution=resolution)
    *others, last = data.test_samples
    module.model.anomaly_map = AnomalyMap(4)  # by which the image left out has the highest score
    module.model.anomaly_map.prepare(module.model.levels.grids[0], module.model.backbone.image_size)
    found = []
    for samples in ([*others, replace(last, masks=())], others):
        data.test_samples = samples
        found.append(trainer.test(module, datamodule=data, verbose=False)[0])
    assert last.label
    for name in ("auroc", "ap", "f1_max", "pro"):
        assert found[0][f"pixel/{name}"] == found[1][f"pixel/{name}"]
    assert found[0]["image/f1_max_threshold"] != found[1]["image/f1_max_threshold"]


def test_nan_score_names_the_image(fitted: tuple[Trainer, LitPaDiM], data: MVTec) -> None:
    trainer, module = fitted
    module.model.gaussian.mean_0[:] = float("nan")
    with pytest.raises(ValueError, match=r"anomaly score of .*test/good/000.png is NaN"):
        trainer.test(module, datamodule=data, verbose=False)


@pytest.fixture
def checkpoint(fitted: tuple[Trainer, LitPaDiM], tmp_path: Path) -> Path:
    path = tmp_path / "model.ckpt"
    fitted[0].save_checkpoint(path)
    return path


def test_checkpoint_scores_identically(
    fitted: tuple[Trainer, LitPaDiM], checkpoint: Path, data: MVTec
) -> None:
    images = next(iter(data.test_dataloader()))["image"]
    expected = fitted[1](images)
    by_lightning = LitPaDiM.load_from_checkpoint(checkpoint, weights_only=True)
    for module in (load_checkpoint(checkpoint), load_checkpoint(checkpoint.parent), by_lightning):
        assert torch.equal(module(images).maps, expected.maps)
        assert torch.equal(module(images).scores, expected.scores)
        assert module.hparams["data"] == {"resize": 64}


def test_checkpoint_is_plain_data(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    assert content["hyper_parameters"]["model"]["reduction"] == {
        "kind": "random",
        "d": 20,
        "seed": 0,
        "clip": False,
    }
    assert int(content["state_dict"]["model.statistics.count"]) == 6


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere.ckpt"):
        load_checkpoint(tmp_path / "nowhere.ckpt")


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_truncated_checkpoint(checkpoint: Path, keep: int) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model.ckpt is truncated or no checkpoint"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2]])
def test_checkpoint_of_another_project(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other.ckpt is a checkpoint of another project"):
        load_checkpoint(tmp_path / "other.ckpt")


def changed(**parts: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a part of the configuration of a model."""

    def change(content: dict[str, Any]) -> None:
        for name, part in parts.items():
            content["hyper_parameters"]["model"][name].update(part)

    return change


def entry(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    """Sets the first value of an entry of the state dict."""

    def change(content: dict[str, Any]) -> None:
        tensor = content["state_dict"][f"model.{name}"]
        tensor[(0,) * tensor.dim()] = value

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.pop("hyper_parameters"), "it has no 'hyper_parameters'"),
        (lambda content: content.pop("state_dict"), "it has no 'state_dict'"),
        (lambda content: content["state_dict"].pop("model.channels_1"), "no 'model.channels_1'"),
        (lambda content: content["state_dict"].pop("model.statistics.mean_0"), "statistics.mean_0"),
        (changed(map={"sigma": 1e9}), "map.sigma must be from 0 to 1000 pixels"),
        (changed(gaussian={"eps": math.inf}), "gaussian.eps must be above 0 and finite"),
        (changed(score={"colour": 1}), "unexpected keyword argument 'colour'"),
        (entry("channels_0", 999), r"channels_0 goes beyond the \d+ of layer1"),
        (entry("statistics.count", 0), "it is a model of 0 images"),
        (entry("statistics.scatter_0_0", math.nan), "scatter_0_0 holds NaN or infinity"),
        (entry("backbone.extractor.conv1.0.weight", math.inf), "weight holds NaN or infinity"),
        (entry("calibration.scores", math.nan), "calibration.scores holds NaN or infinity"),
        (entry("calibration.limits", 4), "calibration.limits holds NaN or infinity"),
    ],
)
def test_what_no_fit_gives_is_refused(
    fitted: tuple[Trainer, LitPaDiM],
    checkpoint: Path,
    damage: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    calibration = fitted[1].model.calibration = Calibration()
    calibration.keep([(torch.ones(9), torch.ones(9, 64, 64), torch.arange(9))])
    fitted[0].save_checkpoint(checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    damage(content)
    torch.save(content, checkpoint)
    with pytest.raises(CheckpointError, match=rf"^\S*model.ckpt is no sound model: .*{message}"):
        load_checkpoint(checkpoint)


def test_a_bit_that_has_changed_is_found(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the checksum of .* does not match"):
        load_checkpoint(checkpoint)


def test_checkpoint_of_another_version(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "padim_format": 99}, checkpoint)
    with pytest.raises(CheckpointError, match="has checkpoint format 99, this version reads 3"):
        load_checkpoint(checkpoint)
