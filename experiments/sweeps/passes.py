"""A pass over the images for the models of several jobs, or one that was kept."""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything
from torch import Tensor

from datamodules import LabelledImages
from experiments.build import new_trainer, progress
from experiments.fitting import log_fit
from experiments.loggers import open_loggers
from experiments.sweeps.features import Need, PassFeatures
from experiments.sweeps.kept_pass import KeptPasses
from experiments.tables.results import flatten
from padim import Backbone, ChosenChannels, Levels, PaDiM, PatchStatistics
from padim.model import SAMPLE_SIZE
from padim.sample import EmbeddingSample

JobType = TypeVar("JobType")

log = logging.getLogger(__name__)

DERIVED = (
    *("backbone.layers", "reduction.", "gaussian.", "map.", "score.", "seed"),
    *("threshold.", "metrics.", "table.", "pictures", "logger", "callbacks", "save_model"),
    *("sweep.", "resume", "overwrite", "objective", "checkpoint_every_n_images"),
    *("data.shot", "select"),
)
"""Beginnings of the keys in which jobs that share a pass may differ."""

SHOWN = ("backbone", "preprocessing", "loading", "data", "trainer", "logger")
"""Groups of the configuration that a pass of its own has on a tracker."""

TIMES = {"cost/fit_s", "cost/image_s"}
"""Metrics that a job of a shared pass does not have."""


def pass_key(config: DictConfig) -> str | None:
    """Equal for jobs that can share a pass over the images; None for one that can share none.

    Of videos there may be any number, so their features are not kept; and a user's own data module
    need not say what a pass asks of it. A job whose table shows times has times of its own.
    """
    timed = TIMES & set(config.table.metrics)
    if timed or not issubclass(get_class(config.data._target_), LabelledImages):
        return None
    flat = flatten(OmegaConf.to_container(config, resolve=True))
    kept = {key: value for key, value in flat.items() if not key.startswith(DERIVED)}
    if flat["backbone.weights"] == "random":
        kept["seed"] = flat["seed"]  # the network itself is drawn with it
    if flat["backbone.patch_pooling"] != 1:
        kept["layers"] = flat["backbone.layers"]  # which grid is the finest depends on them
    return json.dumps(kept, sort_keys=True, default=str)


def shared_backbone(config: DictConfig, layers: Iterable[str], data: LabelledImages) -> Backbone:
    """The backbone with layers of all jobs; random weights are those that a job has alone."""
    seed_everything(config.seed, verbose=False)
    options = {**config.backbone, "layers": list(layers)}
    backbone: Backbone = instantiate(options, image_size=data.image_size)
    return backbone


def affordable(
    needs: Mapping[JobType, Need], backbone: Backbone, limit: float
) -> Iterator[Mapping[JobType, Need]]:
    """The jobs of as few passes as have room for their statistics in a share of the free memory."""
    channels = Need.of_all(needs.values(), backbone.layers).channels
    size, free = _bytes(backbone, channels), _free()
    if len(needs) > 1 and size > limit * free:
        jobs = list(needs)
        for half in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
            yield from affordable({job: needs[job] for job in half}, backbone, limit)
        return
    log.info(
        "One pass for %d job%s: statistics of %d channels, %.2f of %.1f GB free",
        *(len(needs), "s"[: len(needs) > 1], sum(map(len, channels.values()))),
        *(size / 1e9, free / 1e9),
    )
    yield needs


@contextmanager
def run_pass(
    config: DictConfig,
    need: Need,
    backbone: Backbone,
    data: LabelledImages,
    folder: Path,
    tracked: bool,
) -> Iterator[PassFeatures]:
    """One fit of all channels needed and one look at the test images, or a pass of `sweep.cache`.

    Args:
        config: of one of the jobs.
        need: of all of them.
        backbone: with the layers of all.
        data: set up.
        folder: for files that are gone at the end of the block.
        tracked: whether the pass is a run of its own on the job's trackers.
    """
    made = _kept_pass if config.sweep.cache else _new_pass
    with tempfile.TemporaryDirectory(prefix=".features", dir=folder) as features:
        yield made(config, need, backbone, data, Path(features), tracked)


def _kept_pass(
    config: DictConfig,
    need: Need,
    backbone: Backbone,
    data: LabelledImages,
    features: Path,
    tracked: bool,
) -> PassFeatures:
    kept = KeptPasses(config.sweep.cache, pass_key(config) or "", data)
    if state := kept.find(need, backbone.extractor):
        channels = {name: torch.tensor(some) for name, some in state["channels"].items()}
        if list(channels) != [layer.name for layer in backbone.layers]:
            backbone = shared_backbone(config, channels, data)
        whole = PassFeatures(_wide_model(backbone, channels, data), features)
        whole.restore(state)
        return whole
    every = {layer.name: torch.arange(layer.channels) for layer in backbone.layers}
    if _bytes(backbone, every) <= config.sweep.memory_limit * _free():
        images = (config.threshold or {}).get("images", 0)
        need = Need(every, max(need.sample, SAMPLE_SIZE, images), need.shots)
    whole = _new_pass(config, need, backbone, data, features, tracked)
    kept.write(whole.state, backbone.extractor)
    return whole


def _new_pass(
    config: DictConfig,
    need: Need,
    backbone: Backbone,
    data: LabelledImages,
    features: Path,
    tracked: bool,
) -> PassFeatures:
    model = _wide_model(backbone, need.channels, data)
    model.sample = EmbeddingSample(need.sample) if need.sample else None
    whole = PassFeatures(model, features, need.shots)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    shown = OmegaConf.create({key: plain[key] for key in SHOWN if key in plain and tracked})
    with open_loggers(shown, features.parent / "pass", kind="pass") as loggers:
        trainer = new_trainer(config, None, progress(config), loggers)
        if config.sweep.cache and trainer.world_size > 1:
            raise ValueError("sweep.cache is for one device: choose trainer.devices=1")
        trainer.fit(whole, datamodule=data)
        log_fit(whole)
        if data.has_test:
            trainer.test(whole, datamodule=data, verbose=False)
    return whole


def _wide_model(backbone: Backbone, channels: Mapping[str, Tensor], data: LabelledImages) -> PaDiM:
    """A model of some channels of each layer."""
    counts = [layer.channels for layer in backbone.layers]
    reduction = ChosenChannels.of_layers(list(channels.values()), counts)
    return PaDiM(backbone, reduction, ignored=data.ignored)


def _bytes(backbone: Backbone, channels: Mapping[str, Tensor]) -> int:
    """Of the statistics of some channels of each layer."""
    grids = [layer.grid for layer in backbone.layers]
    return PatchStatistics.bytes_for(Levels(grids, list(map(len, channels.values()))))


def _free() -> int:
    """Bytes of memory."""
    free = psutil.virtual_memory().available
    return min(free, torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else free
