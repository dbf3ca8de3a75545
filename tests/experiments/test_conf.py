"""Every file of conf/ composes, and what it names can be built."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import conf
from padim import Backbone

ROOT = Path(conf.__file__).parent
OPTIONS = sorted(p.relative_to(ROOT).with_suffix("") for p in ROOT.glob("*/*.yaml"))


def of_group(group: str) -> list[str]:
    return [option.name for option in OPTIONS if option.parent.name == group]


@pytest.fixture
def composed(tmp_path: Path, request: pytest.FixtureRequest) -> DictConfig:
    verb, overrides = request.param
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(verb, overrides, return_hydra_config=True)
        config.hydra.runtime.output_dir = str(tmp_path)
        HydraConfig.instance().set_config(config)
        return config


def fit_with(group: str) -> list[tuple[str, list[str]]]:
    return [("fit", [f"{group}={name}"]) for name in of_group(group)]


def test_all_groups_are_tested() -> None:
    tested = {"backbone", "data", "experiment", "gaussian", "logger", "map", "reduction", "trainer"}
    assert {option.parent.name for option in OPTIONS} == tested


@pytest.mark.parametrize(
    "composed", [(v, []) for v in ("fit", "evaluate", "predict")], indirect=True
)
def test_verbs_compose(composed: DictConfig) -> None:
    del composed.hydra
    for key in OmegaConf.missing_keys(composed):
        assert key in ("checkpoint", "images")
        composed[key] = "given"
    OmegaConf.resolve(composed)


@pytest.mark.parametrize("composed", fit_with("backbone"), indirect=True)
def test_backbones(composed: DictConfig) -> None:
    backbone = instantiate(composed.backbone, weights="random", image_size=(64, 64))
    assert isinstance(backbone, Backbone)
    assert len(backbone.layers) == 3
    assert backbone.config["name"] == composed.backbone.name


@pytest.mark.parametrize(
    "composed",
    [pair for g in ("reduction", "gaussian", "map", "data") for pair in fit_with(g)],
    indirect=True,
)
def test_parts(composed: DictConfig) -> None:
    for group in ("reduction", "gaussian", "map", "data"):
        built = instantiate(composed[group])
        assert type(built).__name__ == composed[group]._target_.rpartition(".")[2]


@pytest.mark.parametrize("composed", fit_with("logger"), indirect=True)
def test_loggers(composed: DictConfig) -> None:
    if composed.logger:
        assert instantiate(composed.logger).save_dir
    else:
        assert HydraConfig.get().runtime.choices.logger == "none"


@pytest.mark.parametrize("composed", fit_with("trainer"), indirect=True)
def test_trainers(composed: DictConfig) -> None:
    if composed.trainer.accelerator == "gpu" and not CUDAAccelerator.is_available():
        with pytest.raises(Exception, match="No supported gpu backend found") as caught:
            instantiate(composed.trainer)
        assert isinstance(caught.value.__cause__, MisconfigurationException)
    else:
        assert isinstance(instantiate(composed.trainer), Trainer)


@pytest.mark.parametrize("composed", fit_with("experiment"), indirect=True)
def test_paper_presets_name_the_paper_s_weights(composed: DictConfig) -> None:
    assert composed.backbone.name.endswith(".tv_in1k")
    assert composed.backbone.layers == ["layer1", "layer2", "layer3"]
    assert composed.gaussian.eps == 0.01
    assert (composed.map.sigma, composed.map.resize) == (4, "bicubic")
    assert (composed.data.resize, composed.data.crop) == (256, 224)
    assert (
        composed.reduction.d
        == {"resnet18": 100, "wide_resnet50_2": 550}[HydraConfig.get().runtime.choices.backbone]
    )
