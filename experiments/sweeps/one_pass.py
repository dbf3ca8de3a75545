"""Jobs of a sweep that differ only in what can be derived from one pass over the images."""

import gc
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from datamodules import LabelledImages, MadeDefects
from experiments.build import finished_before, new_data, new_model, new_trainer
from experiments.categories import chosen_categories, replaced
from experiments.errors import MENDABLE
from experiments.files import write_text
from experiments.fitting import finish, log_choices
from experiments.folders import clear
from experiments.loggers import open_loggers
from experiments.model_files import portable
from experiments.selection import made_defects, measured, uncalibrated
from experiments.sweeps.features import FeatureSlices, Need, PassFeatures
from experiments.sweeps.passes import affordable, run_pass, shared_backbone
from experiments.tables.results import Result, flatten
from padim import Backbone, LitPaDiM, ModelSlice, channels_by_layer

log = logging.getLogger(__name__)

BESIDE = (
    *("seed", "table.", "logger", "sweep.", "resume"),
    *("objective", "checkpoint_every_n_images"),
)
"""Beginnings of keys by which jobs of a pass write the same: reductions have seeds of their own."""

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
        every = {"shots": "all"} if "shots" in config.data else {}
        data = new_data({**config.data, **every}, prepare=not config.resume)
        assert isinstance(data, LabelledImages)
        layers = _layers(leaders, data.image_size, category, found)
        if layers:
            backbone = shared_backbone(config, dict.fromkeys(sum(layers.values(), ())), data)
            needs = _needs(layers, backbone, data.ignored, category, found)
            for part in affordable(needs, backbone, config.sweep.memory_limit):
                _share_pass(part, layers, backbone, data, category, found)
    except (*MENDABLE, InstantiationException) as error:  # of what they share, so all fail alike
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
            few = job.config.data.get("shots", "all") != "all"
            sample = model.sample.size if model.sample else 0
            needs[job] = Need(channels_by_layer(model), sample, few)
        except Exception as error:
            found[job.number][category] = error
    return needs


def _share_pass(
    needs: Mapping[Job, Need],
    layers: Mapping[Job, tuple[str, ...]],
    backbone: Backbone,
    data: LabelledImages,
    category: str,
    found: Mapping[int, Found],
) -> None:
    """A pass for some jobs, then job by job."""
    first = next(iter(needs))
    first.folder.mkdir(parents=True, exist_ok=True)
    beside: Mapping[Job, dict[str, float]] = {}
    if chosen := {job: need for job, need in needs.items() if job.config.select}:
        beside = _selections(chosen, layers, backbone, made_defects(data))
    need = Need.of_all(needs.values(), backbone.layers)
    place = first.folder.parent
    with run_pass(first.config, need, backbone, data, place, len(needs) > 1) as whole:
        bar = tqdm(needs, desc="Jobs", unit="job", disable=None)
        for job in bar:
            try:
                own = backbone.narrowed(layers[job])
                if job.config.save_model:
                    own = _cut_anew(job.config, backbone)
                part = ModelSlice(whole.model, new_model(job.config, own, data.ignored))
            except ValueError:
                continue  # on a grid of its own
            try:
                with _logged(job.folder, len(found) > 1):
                    own_beside = beside.get(job, {})
                    found[job.number][category] = _finish(job, part, whole, data, own_beside)
            except MENDABLE as error:
                found[job.number][category] = error
            bar.set_postfix_str(_so_far(found, category, first.config.table.metrics))
            del part
            gc.collect()  # a trainer and its module refer to each other: the model would stay


def _so_far(found: Mapping[int, Found], category: str, metrics: Sequence[str]) -> str:
    """The number of failed jobs, and the job of the best first metric of the table, in words."""
    known = {number: one[category] for number, one in found.items() if category in one}
    failed = sum(isinstance(one, Exception) for one in known.values())
    values = {
        number: one.metrics[metrics[0]]
        for number, one in known.items()
        if metrics and isinstance(one, Result) and metrics[0] in one.metrics
    }
    best = max(values, key=values.__getitem__, default=None)
    said = [f"{failed} failed"] * bool(failed)
    return ", ".join(said if best is None else [f"best #{best}: {values[best]:.4g}", *said])


def _selections(
    needs: Mapping[Job, Need],
    layers: Mapping[Job, tuple[str, ...]],
    backbone: Backbone,
    data: MadeDefects,
) -> dict[Job, dict[str, float]]:
    """Metrics on made defects of the jobs that do not fail, from a pass of its own."""
    found = {}
    first = next(iter(needs))
    need = replace(Need.of_all(needs.values(), backbone.layers), sample=0)
    with run_pass(first.config, need, backbone, data, first.folder.parent, tracked=False) as whole:
        for job in needs:
            with suppress(ValueError):  # on a grid of its own, or one that fails below as well
                model = uncalibrated(job.config, backbone.narrowed(layers[job]), data)
                part = ModelSlice(whole.model, model)
                part.fit()
                slices = FeatureSlices(data, whole.test, ModelSlice(whole.model, part.part))
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
    """Fit and test a job whose features, and metrics `beside` its own, are known."""
    shots, seed = (job.config.data.get(key) for key in ("shots", "shot_seed"))
    drawn = data.subsample(shots, seed) if shots else data.train_paths
    seen = whole.fit_part(part, set(map(str, drawn)))
    module = LitPaDiM(part.part, portable(job.config.data, data))
    count, channels = int(part.part.statistics.count), sum(part.part.levels.channels)
    log.info(
        "%d channels of a shared pass, fitted on %d image%s", channels, count, "s"[: count > 1]
    )
    log_choices(module)
    module.fingerprints, module.beside = seen, beside
    slices = FeatureSlices(data, whole.test, ModelSlice(whole.model, part.part))
    with open_loggers(job.config, job.folder) as loggers:
        settings = dict(job.config.callbacks)
        settings.pop("progress", None)
        callbacks = [instantiate(one) for one in settings.values()]
        trainer = new_trainer(job.config, job.folder, callbacks, loggers)
        return finish(job.config, job.folder, trainer, module, slices)


@contextmanager
def _logged(folder: Path, shared: bool) -> Iterator[None]:
    """Write what is logged in the block into fit.log of a job's folder, too, if it has no other."""
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    if not shared:  # Hydra does
        yield
        return
    handler = logging.FileHandler(folder / "fit.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
