"""Types and ranges of configured values, of all commands."""

from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from experiments.cli import COMMANDS
from experiments.values import OF_COMMANDS, SCHEMA, check
from runs import failure


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_module("conf", version_base="1.3"):
        return compose(command, list(overrides))


def test_every_key_is_one_and_has_a_default_of_its_kind() -> None:
    known = set()
    several = [[], ["data=avenue"], ["data=folder"], ["score=topk_mean"]]
    several.append(["preprocessing=rotation_crop"])
    for command in COMMANDS:
        for options in several if command == "fit" else [[]]:
            config = composed(command, *options)
            known |= OmegaConf.missing_keys(config)
            known |= {k for k in SCHEMA if OmegaConf.select(config, k, default=known) is not known}
            before = OmegaConf.to_container(config)
            check(config, command)
            assert OmegaConf.to_container(config) == before
    assert known == set(SCHEMA)
    assert set(OF_COMMANDS) <= set(COMMANDS)


@pytest.mark.parametrize(
    ("command", "override", "meant"),
    [
        ("predict", "fail_on_anomaly=no", False),
        ("predict", "watch=Off", False),
        ("predict", "strict=on", True),
        ("predict", "pictures=no", False),
        ("export", "half=yes", True),
        ("fit", "save_model=no", False),
        ("fit", "backbone.bf16='yes'", True),
        ("fit", "data.download=no", False),
        ("fit", "data.root=2026", "2026"),
        ("fit", "data.category=5", "5"),
        ("report", "paths=2026", ["2026"]),
        ("fit", "save_model=null", None),
        ("fit", "gaussian.shrinkage=auto", "auto"),
    ],
)
def test_what_is_meant(command: str, override: str, meant: Any) -> None:
    config = composed(command, override)
    check(config, command)
    assert OmegaConf.select(config, override.partition("=")[0]) == meant


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gaussian.eps=inf", "gaussian.eps must be a number above 0, such as 0.01, got inf"),
        ("gaussian.eps=small", "gaussian.eps must be a number above 0, such as 0.01, got 'small'"),
        ("gaussian.shrinkage=true", "gaussian.shrinkage must be auto or a number from 0 to 1"),
        ("gaussian.neighbours=-1", "gaussian.neighbours must be a whole number of at least 0"),
        ("reduction.d=true", "reduction.d must be a whole number of at least 1, such as 100, got"),
        ("reduction.d=abc", "reduction.d must be a whole number"),
        ("reduction.d=0.5", "reduction.d must be a whole number"),
        ("reduction.d=null", "reduction.d must be a whole number"),
        ("seed=x", "seed must be a whole number of at least 0, such as 1, got 'x'"),
        ("backbone.layers=blocks.1", r"must be a list of .*, such as \[blocks.1,blocks.2\], got"),
        ("backbone.layers=[]", "backbone.layers must be a list"),
        ("backbone.patch_pooling=1.5", "backbone.patch_pooling must be a whole number"),
        ("loading.num_workers=1.5", "loading.num_workers must be a whole number .* or null"),
        ("data.category=[]", "data.category must be a name or a list of names"),
        ("pictures=1.5", "pictures must be a whole number"),
        ("pictures_by_level=1", "pictures_by_level must be true or false, got 1"),
        ("map.sigma=nan", "map.sigma must be a number of at least 0"),
        ("callbacks.recorder.pictures=abc", "callbacks.recorder.pictures must be a whole number"),
        ("callbacks.resume_state.every_n_images=abc", "every_n_images must be a whole number"),
        ("table.metrics=5", r"table.metrics must be a list of metrics, .*, got 5"),
        ("table.reference=5", "table.reference must be figures by variant, .*, got 5"),
        ("table.by=reduction", r"table.by must be a list of settings, .* or null, got 'reduction'"),
        ("table.spread=var", "table.spread must be sem or sd, got 'var'"),
        (
            "table.pictures=[gif]",
            r"table.pictures must be a list of png, pdf and svg, got \['gif'\]",
        ),
        ("threshold.false_alarm_rate=1", "threshold.false_alarm_rate must be a number within"),
        ("metrics.false_alarm_rate=0", "metrics.false_alarm_rate must be a number within"),
        ("metrics.bootstrap=50", "metrics.bootstrap must be a whole number of at least 100"),
    ],
)
def test_what_is_none(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(composed("fit", override), "fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "reduction.d=abc"], "Error: reduction.d must be a whole number"),
        (["fit", "threshold=450"], "threshold=450: threshold is a group of keys; `padim fit"),
        (["fit", "logger=nonsense"], "Could not find 'logger/nonsense' Available options in"),
        (["fit", "experiment=5"], "experiment=5: experiment is a group of keys"),
        (["fit", "metrics=5"], "metrics has keys of its own: give metrics.binned=..."),
        (["merge", "checkpoints=5"], "it takes two models or more to merge, got 5"),
        (["predict", "checkpoint=5", "images=[5]"], "there is no checkpoint at 5"),
        (["predict", "x", "images=null"], "images must be a path or a list of paths, got None"),
        (["fit", "experiment=null,best"], "experiment=null,best"),
        (["fit", "-m", "reduction.d=5,abc", "data.root=none"], "#1: reduction.d must be a whole"),
    ],
)
@pytest.mark.usefixtures("_in_a_folder")
def test_a_command_says_it_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failure(capsys, arguments)
    assert message in said


@pytest.fixture
def _in_a_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
