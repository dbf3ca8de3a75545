"""Every file of conf/ composes, and what it names can be built."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import conf
from datamodules import CATEGORIES
from experiments import naming
from experiments.cli import COMMANDS
from padim import Backbone

ROOT = Path(conf.__file__).parent
OPTIONS = sorted(p.relative_to(ROOT).with_suffix("") for p in ROOT.glob("*/**/*.yaml"))
BEST = ["experiment=best"]
PARTS = ("reduction", "gaussian", "map", "score", "data")


def of_group(group: str) -> list[str]:
    return [option.name for option in OPTIONS if str(option.parent) == group]


@pytest.fixture
def composed(tmp_path: Path, request: pytest.FixtureRequest) -> DictConfig:
    command, overrides = request.param
    naming.register()
    with initialize_config_module("conf", version_base="1.3"):
        config = compose(command, overrides, return_hydra_config=True)
        config.hydra.runtime.output_dir = str(tmp_path)
        HydraConfig.instance().set_config(config)
        return config


def fit_with(group: str) -> list[tuple[str, list[str]]]:
    return [("fit", [f"{group}={name}"]) for name in of_group(group)]


def test_all_groups_are_tested() -> None:
    tested = {*PARTS, "backbone", "experiment", "experiment/paper", "logger", "table", "trainer"}
    tested |= {"preprocessing", "loading", "callbacks"}
    assert {str(option.parent) for option in OPTIONS} == tested | {
        *(f"experiment/paper/{table}" for table in ROWS),
        "threshold",
        "hydra/help",
        "hydra/launcher",
        "hydra/sweeper",
        "hydra/job_logging",
    }


@pytest.mark.parametrize("composed", [(command, []) for command in COMMANDS], indirect=True)
def test_commands_compose(composed: DictConfig) -> None:
    del composed.hydra
    for key in OmegaConf.missing_keys(composed):
        assert key in ("checkpoint", "checkpoints", "images", "paths")
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
    [pair for group in PARTS for pair in fit_with(group)],
    indirect=True,
)
def test_parts(composed: DictConfig) -> None:
    for group in PARTS:
        built = instantiate(composed[group])
        assert type(built).__name__ == composed[group]._target_.rpartition(".")[2]


@pytest.mark.parametrize("composed", fit_with("threshold"), indirect=True)
def test_thresholds(composed: DictConfig) -> None:
    if HydraConfig.get().runtime.choices.threshold == "none":
        assert not composed.threshold  # as `new_model` understands it
    else:
        assert instantiate(composed.threshold).false_alarm_rate == 0.01


@pytest.mark.parametrize("composed", fit_with("logger"), indirect=True)
def test_loggers(composed: DictConfig) -> None:
    chosen = HydraConfig.get().runtime.choices.logger
    assert list(composed.logger) == ([] if chosen == "none" else [chosen])
    OmegaConf.resolve(composed.logger)
    for settings in composed.logger.values():
        assert issubclass(get_class(settings._target_), Logger)


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_loggers_are_chosen_alone_together_or_not_at_all(command: str) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        together = compose(command, ["logger=[wandb,csv]", "logger.wandb.mode=offline"])
        assert list(together.logger) == ["wandb", "csv"]
        assert together.logger.wandb.mode == "offline"
        assert list(compose(command).logger) == ["csv"]
        assert not compose(command, ["logger=[]"]).get("logger")


@pytest.mark.parametrize("composed", fit_with("trainer"), indirect=True)
def test_trainers(composed: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"):
        monkeypatch.setenv(name, "1")
    if composed.trainer.accelerator == "gpu" and not CUDAAccelerator.is_available():
        with pytest.raises(Exception, match="No supported gpu backend found") as caught:
            instantiate(composed.trainer)
        assert isinstance(caught.value.__cause__, MisconfigurationException)
    else:
        assert isinstance(instantiate(composed.trainer), Trainer)


@pytest.mark.parametrize("composed", fit_with("table"), indirect=True)
def test_tables_have_a_figure_a_metric(composed: DictConfig) -> None:
    rows = {
        *(name for names in CATEGORIES.values() for name in names),
        *CATEGORIES,
        "all",
        "pooled",
    }
    for figures in composed.table.reference.values():
        assert set(figures) <= rows
        assert {len(row) for row in figures.values()} == {len(composed.table.metrics)}


@pytest.mark.parametrize(
    "composed",
    [("fit", [f"experiment=paper/{name}"]) for name in of_group("experiment/paper")],
    indirect=True,
)
def test_paper_presets_follow_the_protocol(composed: DictConfig) -> None:
    assert composed.gaussian.eps == 0.01
    assert (composed.map.sigma, composed.map.resize) == (4, "bicubic")
    crop = None if HydraConfig.get().runtime.choices.data == "stc" else 224
    assert (composed.preprocessing.resize, composed.preprocessing.crop) == (256, crop)
    assert composed.score.kind == "max"
    assert composed.gaussian.shrinkage == 0
    assert composed.backbone.patch_pooling == 1
    if composed.table.variant is None:
        return  # the protocol alone
    name, d = {
        "R18-Rd100": ("resnet18.tv_in1k", 100),
        "Rd100": ("resnet18.tv_in1k", 100),
        "layers 1 to 3": ("resnet18.tv_in1k", None),
        "WR50-Rd550": ("wide_resnet50_2.tv_in1k", 550),
        "EfficientNet-B5": ("tf_efficientnet_b5.aa_in1k", None),
    }[composed.table.variant]
    assert composed.backbone.name == name
    assert composed.reduction.get("d") == d
    if composed.table.reference:
        assert composed.table.variant in composed.table.reference


ROWS = {
    "table1": {
        "layer1": ([1], "AllChannels", None),
        "layer2": ([2], "AllChannels", None),
        "layer3": ([3], "AllChannels", None),
        "sum": ([1, 2, 3], "AllChannels", "sum"),
        "joint": ([1, 2, 3], "AllChannels", None),
    },
    "table2": {
        "rd100": (100, "RandomChannels", None),
        "pca100": (100, "PrincipalComponents", None),
        "rd200": (200, "RandomChannels", None),
        "pca200": (200, "PrincipalComponents", None),
        "all": (None, "AllChannels", None),
    },
}
"""Layers or d, reduction and ensemble of each row."""


@pytest.mark.parametrize("table", ROWS)
def test_the_rows_of_tables_1_and_2(table: str) -> None:
    group = f"experiment/paper/{table}"
    with initialize_config_module("conf", version_base="1.3"):
        preset = compose("fit", [f"experiment=paper/{table}"], return_hydra_config=True)
        rows = {
            row: compose("fit", [f"experiment=paper/{table}", f"{group}={row}"])
            for row in ROWS[table]
        }
    assert preset.hydra.sweeper.params[group].split(",") == list(rows)
    assert [row.table.variant for row in rows.values()] == list(preset.table.reference)
    for name, row in rows.items():
        varied, reduction, ensemble = ROWS[table][name]
        assert varied == (row.backbone.layers if table == "table1" else row.reduction.get("d"))
        assert row.reduction._target_ == f"padim.{reduction}"
        assert row.gaussian.ensemble == ensemble


def test_paper_is_a_word_and_best_differs_from_it() -> None:
    with initialize_config_module("conf", version_base="1.3"):
        paper, default, best = (compose("fit", o) for o in (["experiment=paper"], [], BEST))
    assert paper.backbone.name == "resnet18.tv_in1k"
    assert paper.gaussian == default.gaussian  # the command's default is the paper's, too
    assert best.gaussian.shrinkage == "auto"
    assert best.backbone.patch_pooling == 3
    assert best.reduction._target_ == "padim.AllChannels"


@pytest.mark.parametrize(
    ("metric", "model", "means"),
    [
        (0, "R18-Rd100", [95.6, 97.3, 96.7]),
        (1, "R18-Rd100", [91.3, 89.4, 90.1]),
        (0, "WR50-Rd550", [96.9, 97.8, 97.5]),
        (1, "WR50-Rd550", [93.2, 91.6, 92.1]),
    ],
)
def test_the_figures_of_table_3_agree_with_their_own_means(
    metric: int, model: str, means: list[float]
) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        figures = compose("fit", ["table=paper3"]).table.reference[model]
    groups = [*CATEGORIES.values(), (*CATEGORIES["textures"], *CATEGORIES["objects"])]
    for names, mean, row in zip(groups, means, (*CATEGORIES, "all"), strict=True):
        assert figures[row][metric] == mean
        assert np.mean([figures[name][metric] for name in names]) == pytest.approx(mean, abs=0.11)
