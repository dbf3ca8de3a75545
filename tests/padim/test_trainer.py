"""A module under anybody's Trainer, with Lightning's defaults and loaders of any kind."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from padim import (
    Backbone,
    Calibration,
    CheckpointError,
    LitPaDiM,
    PaDiM,
    PatchGaussian,
    PrincipalComponents,
    Projection,
    RandomChannels,
    Reduction,
    load_checkpoint,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def new_trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    """A trainer that is quiet, and otherwise as Lightning has it."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    callback_list = list(callbacks)
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callback_list,
        **{**quiet, **settings},
    )


def new_module(**parts: Any) -> LitPaDiM:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", [1, 2, 3], "random", image_size=(32, 32))
    return LitPaDiM(PaDiM(backbone, **{"reduction": RandomChannels(10), **parts}))


def random_images(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return random_images(12)


def loader(images: Tensor) -> DataLoader[Any]:
    """Batches of 4, 4 and 4 images, as `TensorDataset` gives them."""
    return DataLoader(TensorDataset(images), batch_size=4)


def dicts(**entries: Any) -> DataLoader[Any]:
    """One batch, a dict."""
    return DataLoader([entries], batch_size=None)


def test_images() -> dict[str, Tensor]:
    """Two images as in training, and two that are black in one corner."""
    batch = random_images(4, seed=1)
    batch[2:, :, :16, :16] = 0
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    masks[2:, :16, :16] = True
    return {"image": batch, "label": torch.tensor([0, 0, 1, 1]), "mask": masks}


test_images.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("max_epochs", [None, 0, 3, 1000, -1])
def test_a_fit_is_one_epoch(max_epochs: int | None, images: Tensor, tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, max_epochs=max_epochs, enable_checkpointing=False)
    for _ in range(2):  # also after the trainer has fitted another
        module = new_module()
        trainer.fit(module, loader(images))
        assert module.model.statistics.count == len(images)
        assert module.model.gaussian.fitted
    if max_epochs is not None:
        assert trainer.max_epochs == max_epochs


def test_no_image_is_seen_twice_by_mistake(images: Tensor, tmp_path: Path) -> None:
    trainer, module = new_trainer(tmp_path, enable_checkpointing=False), new_module()
    trainer.fit(module, loader(images))
    with pytest.raises(RuntimeError, match=r"seen 12 images already.* accumulate=True"):
        trainer.fit(module, loader(images))
    module.accumulate = True
    trainer.fit(module, loader(random_images(5, seed=2)))
    assert module.model.statistics.count == 17


@pytest.mark.parametrize("limit", [{"limit_train_batches": 0}, {"max_steps": 0}])
def test_a_fit_without_images_is_an_error(
    limit: dict[str, int], images: Tensor, tmp_path: Path
) -> None:
    trainer = new_trainer(tmp_path, enable_checkpointing=False, **limit)
    with pytest.raises(ValueError, match="no image was seen"):
        trainer.fit(new_module(), loader(images))


PARTS = {
    "threshold": lambda: {"calibration": Calibration(8, 0.2)},
    "auto": lambda: {"gaussian": PatchGaussian(shrinkage="auto")},
    "pca": lambda: {"reduction": PrincipalComponents(6)},
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "callbacks",
    [
        pytest.param(list, id="implicit"),
        pytest.param(lambda: [ModelCheckpoint(save_last=True)], id="save_last"),
        pytest.param(lambda: [ModelCheckpoint(save_weights_only=True)], id="weights_only"),
    ],
)
def test_checkpoints_of_lightning_score_identically(
    part: str, callbacks: Callable[[], list[Callback]], images: Tensor, tmp_path: Path
) -> None:
    trainer, module = new_trainer(tmp_path, *callbacks()), new_module(**PARTS[part]())
    trainer.fit(module, loader(images))
    expected = module(images)
    written = sorted(tmp_path.rglob("*.ckpt"))
    assert "last.ckpt" in [path.name for path in written] or trainer.checkpoint_callback
    assert written
    for path in written:
        by_lightning = LitPaDiM.load_from_checkpoint(path, weights_only=True)
        for loaded in (by_lightning, load_checkpoint(path)):
            for found, value in zip(loaded(images), expected, strict=True):
                assert torch.equal(found, value)
            if calibration := module.model.calibration:
                assert loaded.model.calibration.thresholds == calibration.thresholds


class EverySecond(Reduction):
    """A user's own: every second channel."""

    def channels(self, total: int) -> Tensor:
        return torch.arange(0, total, 2)


class Sums(Reduction):
    """A user's own, that learns: the sum of all channels of more than the mean variance."""

    learns = True

    def learn(self, covariance: Tensor) -> Reduction:
        variances = covariance.diagonal()
        return Projection((variances > variances.mean()).float().unsqueeze(1))


@pytest.mark.parametrize("reduction", [EverySecond, Sums])
def test_a_reduction_of_ones_own_is_restored(
    reduction: type[Reduction], images: Tensor, tmp_path: Path
) -> None:
    trainer, module = new_trainer(tmp_path), new_module(reduction=reduction())
    trainer.fit(module, loader(images))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded(images).maps, module(images).maps)
    config = module.model.config["reduction"]
    assert config == loaded.model.config["reduction"]
    assert config["kind"].endswith(f".{reduction.__name__}")
    loaded.accumulate = True
    more = random_images(5, seed=2)
    for one in (loaded, module):
        one.accumulate = True
        trainer.fit(one, loader(more))
    assert torch.equal(loaded(images).maps, module(images).maps)


def test_a_network_of_timm_can_be_given(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=2)
    before = copy.deepcopy(network.state_dict())
    module = LitPaDiM(PaDiM(Backbone(network, [1, 2, 3], image_size=(32, 32)), RandomChannels(10)))
    trainer = new_trainer(tmp_path)
    trainer.fit(module, loader(images))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded(images).maps, module(images).maps)
    config = loaded.model.config["backbone"]
    assert config["name"] == "test_resnet.r160_in1k"
    assert config["weights"] == "given"
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_that_timm_did_not_make_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Sequential that timm did not make"):
        Backbone(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)), ["0"])
    network = timm.create_model("test_resnet")
    network.pretrained_cfg["mean"] = (0, 0, 0)
    with pytest.raises(ValueError, match=r"the mean of the model given is \(0, 0, 0\)"):
        Backbone(network, [1])


class Stop(Callback):
    """Raises after the second batch."""

    def on_train_batch_end(self, *arguments: Any, **_: Any) -> None:
        if arguments[-1] == 1:
            raise OSError("the camera is gone")


def test_a_checkpoint_from_the_middle_of_a_fit_says_so(images: Tensor, tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, Stop(), ModelCheckpoint(tmp_path, save_on_exception=True))
    with pytest.raises(OSError, match="camera"):
        trainer.fit(new_module(), loader(images))
    (path,) = tmp_path.glob("*.ckpt")
    wanted = "written in the middle of a fit, after 8 images"
    with pytest.raises(CheckpointError, match=rf"{path.name} cannot be used: .*{wanted}"):
        load_checkpoint(path)
    with pytest.raises(RuntimeError, match=wanted):
        LitPaDiM.load_from_checkpoint(path, weights_only=True)


def test_every_n_train_steps_writes_unfinished_checkpoints(images: Tensor, tmp_path: Path) -> None:
    callback = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    trainer = new_trainer(tmp_path, callback)
    trainer.fit(new_module(), loader(images))
    assert trainer.global_step == 3
    (path,) = tmp_path.glob("*.ckpt")
    with pytest.raises(CheckpointError, match="after 8 images"):
        load_checkpoint(path)


def test_batches_may_be_dicts_tensors_or_sequences(images: Tensor, tmp_path: Path) -> None:
    found = []
    calibration = {"calibration": Calibration(6, 0.2)}
    for batches in (loader(images), DataLoader(images, 4), dicts(image=images)):
        trainer = new_trainer(tmp_path, enable_checkpointing=False)
        module = new_module(**calibration)
        trainer.fit(module, batches)
        found.append((module(images).maps, module.model.calibration.keys))
        scored = trainer.predict(module, batches)
        maps = torch.cat([batch["maps"] for batch in scored])
        torch.testing.assert_close(maps, found[-1][0], rtol=1e-4, atol=0)
    for maps, keys in found[1:]:
        torch.testing.assert_close(maps, found[0][0], rtol=1e-4, atol=0)  # one batch, not three
        assert torch.equal(keys, found[0][1])


def test_levels_come_with_the_maps_if_asked_for(images: Tensor, tmp_path: Path) -> None:
    trainer, module = new_trainer(tmp_path, enable_checkpointing=False), new_module()
    trainer.fit(module, loader(images))
    calls = []
    module.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    module.by_level = True
    (batch,) = trainer.predict(module, dicts(image=images))
    assert len(calls) == 1
    assert len(batch["levels"]) == len(module.model.levels)
    torch.testing.assert_close(sum(batch["levels"].values()), batch["maps"])


def test_without_masks_images_alone_are_measured(images: Tensor, tmp_path: Path) -> None:
    trainer, module = new_trainer(tmp_path, enable_checkpointing=False), new_module()
    trainer.fit(module, loader(images))
    batch = test_images()
    whole = trainer.test(module, dicts(**batch), verbose=False)[0]
    pairs = DataLoader(TensorDataset(batch["image"], batch["label"]), batch_size=2)
    found = trainer.test(module, pairs, verbose=False)[0]
    assert not [name for name in found if name.startswith("pixel/")]
    for name in ("image/auroc", "image/f1_max_threshold"):
        assert found[name] == pytest.approx(whole[name])
    with pytest.raises(ValueError, match=r"test batches need `label`.* got image"):
        trainer.test(module, loader(images), verbose=False)


def test_decisions_are_logged(images: Tensor, tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, enable_checkpointing=False)
    module = new_module(calibration=Calibration(12, 0.2), gaussian=PatchGaussian(shrinkage="auto"))
    trainer.fit(module, loader(images))
    batch = test_images()
    found = trainer.test(module, dicts(**batch), verbose=False)[0]
    choice, (image, pixel) = module.model.shrinkage_choice, module.model.calibration.thresholds
    assert (found["shrinkage/amount"], found["shrinkage/gain"]) == (choice.coefficient, choice.gain)
    assert (found["threshold/image"], found["threshold/pixel"]) == (image, pixel)
    assert found["threshold/false_alarm_rate"] == 0.2
    called = module(batch["image"]).scores >= image
    assert found["verdict/false_alarm_rate"] == called[:2].float().mean()
    assert found["verdict/recall"] == called[2:].float().mean()


def test_validate_is_refused_by_lightning(images: Tensor, tmp_path: Path) -> None:
    trainer = new_trainer(tmp_path, enable_checkpointing=False)
    with pytest.raises(MisconfigurationException, match="No `validation_step"):
        trainer.validate(new_module(), loader(images))


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
def test_a_precision_that_converts_the_model_is_refused(
    precision: str, images: Tensor, tmp_path: Path
) -> None:
    trainer = new_trainer(tmp_path, enable_checkpointing=False, precision=precision)
    with pytest.raises(ValueError, match=rf"precision='{precision}'.* choose 32-true"):
        trainer.fit(new_module(), loader(images))


def test_mixed_precision_changes_nothing(images: Tensor, tmp_path: Path) -> None:
    maps = []
    for precision in ("32-true", "bf16-mixed"):
        trainer = new_trainer(tmp_path, enable_checkpointing=False, precision=precision)
        module = new_module()
        trainer.fit(module, loader(images))
        maps.append(torch.cat([batch["maps"] for batch in trainer.predict(module, loader(images))]))
    assert torch.equal(*maps)


def test_values_reach_any_logger(images: Tensor, tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "csv", ""), WandbLogger("run", tmp_path, mode="offline")]
    trainer = new_trainer(tmp_path, enable_checkpointing=False, logger=loggers, log_every_n_steps=1)
    module = new_module()
    trainer.fit(module, loader(images))
    phases = {f"fit/{name}_s" for name in ("decode", "backbone", "statistics", "covariances")}
    assert phases | {"fit/images_per_s"} <= set(trainer.logged_metrics)
    metrics = trainer.test(module, dicts(**test_images()), verbose=False)[0]
    summary = dict(loggers[1].experiment.summary)
    loggers[1].experiment.finish()
    table = pd.read_csv(tmp_path / "csv" / "metrics.csv")
    assert table["fit/images_per_s"].notna().sum() == 3  # one a batch
    for found in (table.iloc[-1], summary):
        for name, value in metrics.items():
            assert found[name] == pytest.approx(value)
