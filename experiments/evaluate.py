"""padim evaluate: measure a fitted model on test images."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.evaluation import TestRecorder, test
from experiments.tables import print_metrics
from experiments.trainer import open_trainer
from padim import CheckpointError, load_checkpoint

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Load, evaluate; return the metrics."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    module = load_checkpoint(config.checkpoint)
    config.data = data_config(
        module.hparams["data"], config.data, list(HydraConfig.get().overrides.task)
    )
    OmegaConf.save(config, folder / "config.yaml", resolve=True)
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("test")
    if data.image_size != module.model.backbone.image_size:
        raise ValueError(
            f"the model was fitted on images of {module.model.backbone.image_size},"
            f" data.resize and data.crop give {data.image_size}"
        )
    if not data.has_test:
        raise ValueError(f"{data.folder} has no test images")
    recorder = TestRecorder(keep_maps=config.pictures > 0)
    with open_trainer(config, folder, recorder) as trainer:
        metrics = test(trainer, recorder, module, data, folder, config.pictures)
    print_metrics(data.name, metrics)
    log.info("Written to %s", folder)
    return metrics


def data_config(saved: dict[str, Any], composed: DictConfig, overrides: list[str]) -> DictConfig:
    """The data of the fit, except for the keys overridden now; `data=NAME` replaces them all.

    Raises:
        CheckpointError: the saved configuration names something that is no data module.
    """
    keys = [
        override.key_or_group for override in OverridesParser.create().parse_overrides(overrides)
    ]
    if "data" in keys or not saved:
        return composed
    for target in _targets(saved):  # a checkpoint must not choose what code is run
        if not target.startswith("datamodules."):
            raise CheckpointError(f"the checkpoint names {target} for its data; give data=NAME")
    merged = OmegaConf.create(saved)
    for key in keys:
        if key.startswith("data."):
            inner = key.removeprefix("data.")
            OmegaConf.update(merged, inner, OmegaConf.select(composed, inner))
    return merged


def _targets(node: Any) -> Iterator[str]:
    """All that instantiating the configuration would call, at any depth."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        yield str(node["_target_"])
    for child in children:
        yield from _targets(child)
