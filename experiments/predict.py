"""padim predict: score plain images and videos, and call them normal or anomalous."""

import logging
import sys
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from datamodules import ImageError, Preprocessing, find_inputs, summary
from experiments.app import launch
from experiments.callbacks.drift_monitor import DriftMonitor
from experiments.folders import clear
from experiments.model_files import fitted_preprocessing, keep_bits
from experiments.scoring.predictions import PredictionFiles
from experiments.scoring.predictor import Predictor
from experiments.scoring.verdicts import ANOMALOUS, NORMAL, NOT_CALIBRATED, Verdicts
from experiments.scoring.watch import Arrivals, watch
from padim import LitPaDiM, load_checkpoint

ANOMALY_FOUND = 3
"""Exit status under `fail_on_anomaly` and `fail_on_drift`; of errors it is 1, of bad options 2."""

LISTED = 20
"""Skipped files that are logged one by one; skipped.csv has them all."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Score every image and every frame of a video; return how many there are of what.

    Raises:
        DataError: nothing can be scored; or `strict` is set and a file cannot be read, which is
            raised when all others are scored.
        ValueError: `fail_on_anomaly` is set and there is no threshold, a size is wrong, or the
            model or the images are none to find drift with.
        SystemExit: with `ANOMALY_FOUND`: `fail_on_anomaly` is set and something is anomalous, or
            `fail_on_drift` and there is drift.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    module = load_checkpoint(config.checkpoint)
    preprocessing = chosen_preprocessing(config, module)
    verdicts = Verdicts.of(module.model, **config.threshold)
    if config.fail_on_anomaly and verdicts.threshold is None:
        raise ValueError(f"fail_on_anomaly needs a threshold: {NOT_CALIBRATED}")
    monitor = DriftMonitor(module.model, verdicts, config.drift) if config.drift else None
    if config.fail_on_drift and not monitor:
        raise ValueError("fail_on_drift needs the false-alarm rate of its test, such as drift=0.05")
    log.info("%s", verdicts)
    find = partial(find_inputs, list(config.images), videos=True, may_be_empty=config.watch)
    arrivals = Arrivals(lambda: list(find().files))
    paths, found = arrivals.all(), find()
    if config.overwrite:
        clear(folder)
    with PredictionFiles(folder, str(config.checkpoint), verdicts) as files:
        files.pass_over([(str(path), reason) for path, reason in found.left_out.items()])
        files.skip([(str(path), reason) for path, reason in found.unread.items()])
        callbacks = [monitor] if monitor else []
        predictor = Predictor(config, module, preprocessing, files, callbacks)
        predictor.score(paths)
        if config.watch:
            log.info("Waiting for files; Ctrl-C ends it")
            predictor.go_live()
            watch(arrivals, predictor.score, config.interval)
    log_outcome(files)
    drift = monitor.report(folder) if monitor else False
    log.info("Written to %s", folder)
    scored, unread = files.counts.total(), files.unread
    if unread and (config.strict or not (scored or config.watch)):
        path, reason = next(iter(unread.items()))
        more = f" (and {len(unread) - 1} more, see skipped.csv)" if len(unread) > 1 else ""
        raise ImageError(f"{path}: {reason}{more}")
    anomalous = config.fail_on_anomaly and files.counts[ANOMALOUS]
    if anomalous or (config.fail_on_drift and drift):
        sys.exit(ANOMALY_FOUND)
    return {"scored": scored, "anomalous": files.counts[ANOMALOUS], "skipped": len(unread)}


def chosen_preprocessing(config: DictConfig, module: LitPaDiM) -> Preprocessing:
    """The preprocessing given on the command line, or that of the fit.

    Raises:
        ValueError: images would have another size than those of the fit.
    """
    if config.preprocessing.keys() == {"ignore"}:
        return fitted_preprocessing(module, config.checkpoint, config.preprocessing.ignore)
    keep_bits(config, module)
    target = {"_target_": "datamodules.Preprocessing"}
    chosen: Preprocessing = instantiate({**target, **config.preprocessing})
    size = module.model.backbone.image_size
    if chosen.image_size != tuple(size):
        raise ValueError(
            f"the model was fitted on images of {size}, preprocessing gives {chosen.image_size}"
        )
    return chosen


def log_outcome(files: PredictionFiles) -> None:
    """Log the highest scores, how many are anomalous, and what was skipped."""
    for one in files.highest:
        log.info("%s", one)
    scored, anomalous = files.counts.total(), files.counts[ANOMALOUS]
    if scored > len(files.highest):
        log.info("... are the %d highest of %d scores", len(files.highest), scored)
    if anomalous or files.counts[NORMAL]:
        log.info("%d of %d are anomalous", anomalous, scored)
    if files.others:
        log.info("Left out are %s", summary(files.others))
    if files.unread:
        log.warning("%d cannot be read:", len(files.unread))
    for path, reason in list(files.unread.items())[:LISTED]:
        log.warning("  %s: %s", path, reason)
    if len(files.unread) > LISTED:
        log.warning("  ... and those in skipped.csv")


if __name__ == "__main__":
    launch("predict")
