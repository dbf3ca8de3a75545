"""Jobs of a sweep that differ only in what can be derived from one pass over the images."""

import json
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything
from torch.utils.data import DataLoader
from tqdm import tqdm

from datamodules import LabelledData, LabelledImages
from experiments.errors import MENDABLE
from experiments.fit import (
    FINISHED,
    finish,
    finished_before,
    new_model,
    portable,
    replaced,
)
from experiments.running.batch import chosen_categories
from experiments.running.tracking import tracked
from experiments.running.trainer import open_trainer
from experiments.scoring.recorder import TestRecorder
from experiments.sweeps.features import FeatureSlices, PassFeatures
from experiments.sweeps.plan import Plan, plan_passes
from experiments.tables.results import Result, flatten
from padim import (
    Backbone,
    ChosenChannels,
    LitPaDiM,
    ModelSlice,
    PaDiM,
    union_of_channels,
)
from padim.sample import EmbeddingSample

log = logging.getLogger(__name__)

DERIVED = (
    *("backbone.layers", "reduction.", "gaussian.", "map.", "score.", "seed"),
    *("threshold.", "metrics.", "table.", "pictures", "logger", "save_model", "sweep."),
    *("resume", "checkpoint_every_n_images"),
)
"""Beginnings of the keys in which jobs that share a pass may differ."""

BESIDE = ("seed", "table.", "logger", "sweep.", "resume", "checkpoint_every_n_images")
"""Beginnings of those in which jobs may differ and write the same; draws have own seeds."""


@dataclass(frozen=True, eq=False)
class Job:
    """One job of a sweep.

    Args:
        config: composed, without Hydra's own part.
        folder: of its run.
    """

    config: DictConfig
    folder: Path


def pass_key(config: DictConfig) -> str:
    """Equal for jobs that can share a pass over the images."""
    flat = flatten(OmegaConf.to_container(config, resolve=True))
    kept = {key: value for key, value in flat.items() if not key.startswith(DERIVED)}
    if flat["backbone.weights"] == "random":
        kept["seed"] = flat["seed"]  # the network itself is drawn with it
    if flat["backbone.patch_pooling"] != 1:
        kept["layers"] = flat["backbone.layers"]  # which grid is the finest depends on them
    return json.dumps(kept, sort_keys=True, default=str)


def group_jobs(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that share a pass together, in the order of their first; streams share none.

    What a stream is tested on has no bounds, so its features are not kept.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        data: type[LabelledData] = get_class(job.config.data._target_)
        alone = str(job.folder) if data.streamed else ""
        groups.setdefault(pass_key(job.config) + alone, []).append(job)
    return list(groups.values())


def run_shared(jobs: Sequence[Job]) -> None:
    """Fit and test jobs that share a pass; each finds its result in `FINISHED` when it is run."""
    chosen = chosen_categories(jobs[0].config.data)
    if chosen is None:
        _share(jobs)
        return
    key, categories = chosen
    for category in categories:
        log.info("%s, for %d jobs", category, len(jobs))
        _share([Job(replaced(j.config, key, category), j.folder / category) for j in jobs])


def _share(jobs: Sequence[Job]) -> None:
    """One category: the jobs' results into `FINISHED`, or the reasons why there are none."""
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        if not finished_before(job.config, job.folder):
            alike.setdefault(_result_key(job.config), []).append(job)
    if not alike:
        return
    leaders = [same[0] for same in alike.values()]
    config = leaders[0].config
    try:
        data: LabelledImages = instantiate(config.data)
        data.prepare_data()
        data.setup("fit")
        layers = _layers(leaders, data.image_size)
        if layers:
            options = {**config.backbone, "layers": list(dict.fromkeys(sum(layers.values(), ())))}
            seed_everything(config.seed, verbose=False)  # random weights are those of a job alone
            backbone = instantiate(options, image_size=data.image_size)
            models = dict(_models(layers, backbone))
            images, binned = len(data.test_samples), config.metrics.binned
            for plan in plan_passes(models, images, config.sweep.memory_limit, binned):
                _share_pass(plan, backbone, data)
    except MENDABLE as error:  # of the data, so all fail alike
        for job in leaders:
            FINISHED.setdefault(job.folder.absolute(), error)
    for leader, *twins in alike.values():
        for twin in twins:
            _copy(leader, twin)


def _result_key(config: DictConfig) -> str:
    """Equal for jobs of a group that give the same."""
    flat = flatten(OmegaConf.to_container(config, resolve=True))
    return json.dumps({k: v for k, v in flat.items() if not k.startswith(BESIDE)}, default=str)


def _copy(job: Job, twin: Job) -> None:
    """Write for a job what another one wrote that is the same."""
    result = FINISHED.get(job.folder.absolute())
    if isinstance(result, Result):
        log.info("%s is the same as %s", twin.folder.name, job.folder.name)
        trackers = shutil.ignore_patterns(*(job.config.get("logger") or ()))
        with tracked(twin.config, twin.folder):
            shutil.copytree(job.folder, twin.folder, ignore=trackers, dirs_exist_ok=True)
        OmegaConf.save(twin.config, twin.folder / "config.yaml", resolve=True)
        result = Result.of(result.category, twin.config, result.metrics)
    if result:
        FINISHED[twin.folder.absolute()] = result


def _layers(jobs: Sequence[Job], image_size: tuple[int, int]) -> dict[Job, tuple[str, ...]]:
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
        found = named[wanted]
        if isinstance(found, Exception):
            FINISHED[job.folder.absolute()] = found
        else:
            layers[job] = found
    return layers


def _models(
    layers: Mapping[Job, tuple[str, ...]], backbone: Backbone
) -> Iterator[tuple[Job, PaDiM]]:
    """The models of the jobs on one backbone; a job whose model cannot be made fails."""
    for job, names in layers.items():
        own = _cut_anew(job.config, backbone) if job.config.save_model else backbone.narrowed(names)
        try:
            yield job, new_model(job.config, own)
        except Exception as error:
            FINISHED[job.folder.absolute()] = error


def _cut_anew(config: DictConfig, backbone: Backbone) -> Backbone:
    """A backbone of a job's own, to be saved: the same weights, cut behind its last layer."""
    own: Backbone = instantiate(config.backbone, image_size=backbone.image_size, weights=None)
    shared = backbone.state_dict()
    own.load_state_dict({name: shared[name] for name in own.state_dict()})
    own.weights = backbone.weights
    return own


def _share_pass(plan: Plan, backbone: Backbone, data: LabelledImages) -> None:
    """One fit of the union of all channels, one look at the test images, then job by job."""
    models: Mapping[Job, PaDiM] = plan.models
    first = next(iter(models))
    counts = [(layer.name, layer.channels) for layer in backbone.layers]
    model = PaDiM(backbone, ChosenChannels(union_of_channels(list(models.values()), counts)))
    sizes = [part.sample.size for part in models.values() if part.sample]
    model.sample = EmbeddingSample(max(sizes)) if sizes else None
    first.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".features", dir=first.folder.parent) as spill:
        whole = PassFeatures(model, Path(spill) if plan.spilled else None)
        with open_trainer(first.config, None) as trainer:
            trainer.fit(whole, datamodule=data)
            if data.has_test:
                trainer.test(whole, datamodule=data, verbose=False)
        for job, model in tqdm(models.items(), desc="Jobs", unit="job", disable=None):
            try:
                part = ModelSlice(whole.model, model)
            except ValueError:
                continue  # on a grid of its own: run by itself when its turn comes
            try:
                FINISHED[job.folder.absolute()] = _finish(job, part, whole, data)
            except MENDABLE as error:
                FINISHED[job.folder.absolute()] = error


def _finish(job: Job, part: ModelSlice, whole: PassFeatures, data: LabelledImages) -> Result:
    """What is left of a job when its features are known."""
    module = LitPaDiM(part.part, data=portable(job.config.data))
    start = time.perf_counter()
    part.fit()
    module.seconds = {**whole.seconds, "covariances": time.perf_counter() - start}
    recorder = TestRecorder(job.config.pictures)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "metrics.json").unlink(missing_ok=True)
    with open_trainer(job.config, job.folder, recorder, progress=False) as trainer:
        if job.config.save_model:
            trainer.strategy.connect(module)
        fitted = ModelSlice(whole.model, part.part)
        loader = DataLoader(FeatureSlices(whole.batches, fitted), batch_size=None)
        return finish(job.config, job.folder, trainer, recorder, module, data, loader)
