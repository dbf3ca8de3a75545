"""Jobs of a sweep that differ only in what can be derived from one pass over the images."""

import gc
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything
from torch import Tensor
from tqdm import tqdm

from datamodules import LabelledImages, MadeDefects
from experiments.build import finished_before, new_data, new_model, new_trainer, progress
from experiments.categories import chosen_categories, replaced
from experiments.errors import MENDABLE
from experiments.files import write_text
from experiments.fit import finish, log_choices, log_fit
from experiments.folders import clear
from experiments.loggers import open_loggers
from experiments.model_files import portable
from experiments.selection import made_defects, measured, uncalibrated
from experiments.sweeps.features import FeatureSlices, PassFeatures
from experiments.tables.results import Result, flatten
from padim import (
    Backbone,
    ChosenChannels,
    Levels,
    LitPaDiM,
    ModelSlice,
    PaDiM,
    PatchStatistics,
    channels_by_layer,
    union_of_channels,
)
from padim.sample import EmbeddingSample

log = logging.getLogger(__name__)

DERIVED = (
    *("backbone.layers", "reduction.", "gaussian.", "map.", "score.", "seed"),
    *("threshold.", "metrics.", "table.", "pictures", "logger", "callbacks", "save_model"),
    *("sweep.", "resume", "overwrite", "objective", "checkpoint_every_n_images"),
)
"""Beginnings of the keys in which jobs that share a pass may differ."""

BESIDE = (
    *("seed", "table.", "logger", "sweep.", "resume"),
    *("objective", "checkpoint_every_n_images"),
)
"""Beginnings of those in which jobs may differ and write the same; reductions have own seeds."""

TIMES = {"cost/fit_s", "cost/image_s"}
"""Metrics that a job of a shared pass does not have."""

Found = dict[str, Result | Exception]
"""Results of a job by category, or why there is none; "" stands for the only one."""


@dataclass(frozen=True, eq=False)
class Job:
    """One job of a sweep.

    Args:
        number: in the sweep.
        config: composed, without Hydra's own part.
        folder: of its run.
    """

    number: int
    config: DictConfig
    folder: Path


@dataclass(frozen=True)
class Need:
    """What a job's model takes of a pass.

    Args:
        channels: by the name of the layer, sorted.
        sample: images whose embedding is kept for the threshold or shrinkage.
    """

    channels: Mapping[str, Tensor]
    sample: int


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


def run_shared(jobs: Sequence[Job]) -> dict[int, Found]:
    """Fit and test jobs that share a pass; what is found by the number of the job.

    A job that cannot share it, as its grids do not nest, has nothing: it is to be run by itself.
    """
    found: dict[int, Found] = {job.number: {} for job in jobs}
    chosen = chosen_categories(jobs[0].config.data)
    if chosen is None:
        _share(jobs, "", found)
        return found
    key, categories = chosen
    for category in categories:
        log.info("%s, for %d jobs", category, len(jobs))
        parts = [
            replace(j, config=replaced(j.config, key, category), folder=j.folder / category)
            for j in jobs
        ]
        _share(parts, category, found)
    return found


def _share(jobs: Sequence[Job], category: str, found: Mapping[int, Found]) -> None:
    """One category: the jobs' results, or the reasons why there are none."""
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        if not finished_before(job.config, job.folder):
            alike.setdefault(_result_key(job.config), []).append(job)
    if not alike:
        return
    leaders = [same[0] for same in alike.values()]
    config = leaders[0].config
    try:
        data = new_data(config.data, prepare=not config.resume)
        assert isinstance(data, LabelledImages)
        layers = _layers(leaders, data.image_size, category, found)
        if layers:
            options = {**config.backbone, "layers": list(dict.fromkeys(sum(layers.values(), ())))}
            seed_everything(config.seed, verbose=False)  # random weights are those of a job alone
            backbone = instantiate(options, image_size=data.image_size)
            needs = _needs(layers, backbone, data.ignored, category, found)
            for part in _passes(needs, backbone, config.sweep.memory_limit):
                _share_pass(part, layers, backbone, data, category, found)
    except MENDABLE as error:  # of the data, so all fail alike
        for job in leaders:
            found[job.number].setdefault(category, error)
    for leader, *twins in alike.values():
        for twin in twins:
            _copy(leader, twin, category, found)


def _result_key(config: DictConfig) -> str:
    """Equal for jobs of a group that give the same."""
    flat = flatten(OmegaConf.to_container(config, resolve=True))
    return json.dumps({k: v for k, v in flat.items() if not k.startswith(BESIDE)}, default=str)


def _copy(job: Job, twin: Job, category: str, found: Mapping[int, Found]) -> None:
    """Write for a job what another one wrote that is the same."""
    result = found[job.number].get(category)
    if isinstance(result, Result):
        log.debug("%s is the same as %s", twin.folder.name, job.folder.name)
        own = shutil.ignore_patterns(*(job.config.get("logger") or ()))
        with open_loggers(twin.config, twin.folder) as loggers:
            shutil.copytree(job.folder, twin.folder, ignore=own, dirs_exist_ok=True)
            for logger in loggers:
                logger.log_metrics(result.metrics)
        write_text(twin.folder / "config.yaml", OmegaConf.to_yaml(twin.config, resolve=True))
        result = Result.of(result.category, twin.config, result.metrics)
    if result:
        found[twin.number][category] = result


def _layers(
    jobs: Sequence[Job], image_size: tuple[int, int], category: str, found: Mapping[int, Found]
) -> dict[Job, tuple[str, ...]]:
    """The full names of each job's layers; a job whose layers do not exist fails."""
    named: dict[str, tuple[str, ...] | Exception] = {}
    layers = {}
    for job in jobs:
        wanted = str(job.config.backbone.layers)
        if wanted not in named:
            try:
                bare = instantiate(job.config.backbone, image_size=image_size, weights=None)
                named[wanted] = tuple(layer.name for layer in bare.layers)
            except Exception as error:  # of any kind: it is the job's own
                named[wanted] = error
                log.error("%s", error)
        names = named[wanted]
        if isinstance(names, Exception):
            found[job.number][category] = names
        else:
            layers[job] = names
    return layers


def _needs(
    layers: Mapping[Job, tuple[str, ...]],
    backbone: Backbone,
    ignored: Tensor | None,
    category: str,
    found: Mapping[int, Found],
) -> dict[Job, Need]:
    """What each job takes of the pass; one whose model cannot be made fails."""
    needs = {}
    for job, names in layers.items():
        try:
            # Made once more when its turn comes: all at once would fill the memory.
            model = new_model(job.config, backbone.narrowed(names), ignored)
            needs[job] = Need(channels_by_layer(model), model.sample.size if model.sample else 0)
        except Exception as error:
            found[job.number][category] = error
    return needs


def _passes(
    needs: Mapping[Job, Need], backbone: Backbone, limit: float
) -> Iterator[Mapping[Job, Need]]:
    """As few passes as have room for their statistics in a share of the free memory."""
    channels = union_of_channels([need.channels for need in needs.values()], backbone.layers)
    counts = [len(part) for part in channels]
    levels = Levels([layer.grid for layer in backbone.layers], counts)
    size, free = PatchStatistics.bytes_for(levels), psutil.virtual_memory().available
    if torch.cuda.is_available():
        free = min(free, torch.cuda.mem_get_info()[0])
    if len(needs) > 1 and size > limit * free:
        jobs = list(needs)
        for half in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
            yield from _passes({job: needs[job] for job in half}, backbone, limit)
        return
    log.info(
        "One pass for %d job%s: statistics of %d channels, %.2f of %.1f GB free",
        *(len(needs), "s" * (len(needs) > 1), sum(counts), size / 1e9, free / 1e9),
    )
    yield needs


def _share_pass(
    needs: Mapping[Job, Need],
    layers: Mapping[Job, tuple[str, ...]],
    backbone: Backbone,
    data: LabelledImages,
    category: str,
    found: Mapping[int, Found],
) -> None:
    """One fit of the union of all channels, one look at the test images, then job by job."""
    first = next(iter(needs))
    first.folder.mkdir(parents=True, exist_ok=True)
    beside = {}
    if first.config.select:
        beside = _selections(needs, layers, backbone, made_defects(data))
    with _features(needs, backbone, data) as whole:
        for job in tqdm(needs, desc="Jobs", unit="job", disable=None):
            try:
                own = backbone.narrowed(layers[job])
                if job.config.save_model:
                    own = _cut_anew(job.config, backbone)
                part = ModelSlice(whole.model, new_model(job.config, own, data.ignored))
            except ValueError:
                continue  # on a grid of its own
            try:
                with _logged(job.folder):
                    found[job.number][category] = _finish(
                        job, part, whole, data, beside.get(job, {})
                    )
            except MENDABLE as error:
                found[job.number][category] = error
            del part
            gc.collect()  # a trainer and its module refer to each other: the model would stay


@contextmanager
def _features(
    needs: Mapping[Job, Need], backbone: Backbone, data: LabelledImages
) -> Iterator[PassFeatures]:
    """One fit of the union of all channels, and one look at the test images."""
    first = next(iter(needs))
    channels = union_of_channels([need.channels for need in needs.values()], backbone.layers)
    counts = [layer.channels for layer in backbone.layers]
    model = PaDiM(backbone, ChosenChannels.of_layers(channels, counts), ignored=data.ignored)
    sample = max(need.sample for need in needs.values())
    model.sample = EmbeddingSample(sample) if sample else None
    with tempfile.TemporaryDirectory(prefix=".features", dir=first.folder.parent) as folder:
        whole = PassFeatures(model, Path(folder))
        trainer = new_trainer(first.config, callbacks=progress(first.config))
        trainer.fit(whole, datamodule=data)
        log_fit(whole)
        if data.has_test:
            trainer.test(whole, datamodule=data, verbose=False)
        yield whole


def _selections(
    needs: Mapping[Job, Need],
    layers: Mapping[Job, tuple[str, ...]],
    backbone: Backbone,
    data: MadeDefects,
) -> dict[Job, dict[str, float]]:
    """Metrics on made defects of the jobs that do not fail, from a pass of its own."""
    found = {}
    with _features(needs, backbone, data) as whole:
        for job in needs:
            with suppress(ValueError):  # on a grid of its own, or one that fails below as well
                model = uncalibrated(job.config, backbone.narrowed(layers[job]), data)
                part = ModelSlice(whole.model, model)
                part.fit()
                slices = FeatureSlices(data, whole.batches, ModelSlice(whole.model, part.part))
                found[job] = measured(job.config, LitPaDiM(part.part), slices)
            gc.collect()
    return found


def _cut_anew(config: DictConfig, backbone: Backbone) -> Backbone:
    """A backbone of a job's own, to be saved: the same weights, cut behind its last layer."""
    own: Backbone = instantiate(config.backbone, image_size=backbone.image_size, weights=None)
    shared = backbone.state_dict()
    own.load_state_dict({name: shared[name] for name in own.state_dict()})
    own.weights = backbone.weights
    return own


def _finish(
    job: Job,
    part: ModelSlice,
    whole: PassFeatures,
    data: LabelledImages,
    beside: dict[str, float],
) -> Result:
    """What is left of a job when its features, and metrics `beside` its own, are known."""
    part.fit()
    module = LitPaDiM(part.part, portable(job.config.data, data))
    module.beside = beside
    count, channels = part.part.statistics.count, sum(part.part.levels.channels)
    log.info("%d channels, of one pass for several jobs over %d images", channels, count)
    log_choices(module)
    module.fingerprints = whole.fingerprints
    slices = FeatureSlices(data, whole.batches, ModelSlice(whole.model, part.part))
    with open_loggers(job.config, job.folder) as loggers:
        settings = dict(job.config.callbacks)
        settings.pop("progress", None)
        callbacks = [instantiate(one) for one in settings.values()]
        trainer = new_trainer(job.config, job.folder, callbacks, loggers)
        return finish(job.config, job.folder, trainer, module, slices)


@contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Write what is logged in the block into fit.log of a job's folder, too."""
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    handler = logging.FileHandler(folder / "fit.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
