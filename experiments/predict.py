"""padim predict: score plain images and videos, and tell what is anomalous."""

import logging
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from datamodules import PREPARATION, ImageError, find_inputs, find_others
from experiments.running.trainer import open_trainer
from experiments.scoring.predictions import PredictionFiles
from experiments.scoring.predictor import FOLDERS, Predictor
from experiments.scoring.verdicts import ANOMALOUS, NORMAL, NOT_CALIBRATED, Verdicts
from experiments.scoring.watch import Arrivals, watch
from padim import CheckpointError, LitPaDiM, load_checkpoint

ANOMALY_FOUND = 3
"""Exit status under `fail_on_anomaly`; that of an error is 1, of an unknown option 2."""

LISTED = 20
"""Skipped files that are told one by one; skipped.csv has them all."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Score every image and every frame of a video; return how many there are of what.

    Raises:
        DataError: nothing can be scored; or `strict` is set and a file cannot be read, which is
            told when all others are scored.
        ValueError: a key is wrong, or `fail_on_anomaly` is set and there is no threshold.
        SystemExit: with `ANOMALY_FOUND`: `fail_on_anomaly` is set and something is anomalous.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if config.watch and not config.interval > 0:
        raise ValueError(f"interval must be above 0 seconds, got {config.interval}")
    module = load_checkpoint(config.checkpoint, scoring_only=True)
    prepared = preparation(module, config.checkpoint)
    limit = config.threshold
    verdicts = Verdicts.of(module.model, limit.false_alarm_rate, limit.score)
    if config.fail_on_anomaly and verdicts.threshold is None:
        raise ValueError(f"fail_on_anomaly needs a threshold: {NOT_CALIBRATED}")
    log.info("%s", verdicts)
    given = [config.images] if isinstance(config.images, str) else list(config.images)
    arrivals = Arrivals(
        lambda: find_inputs(given, videos=True, may_be_empty=config.watch),
        written=[folder / name for name in FOLDERS],
    )
    paths = arrivals.all()
    others = [path for path in find_others(given) if folder not in path.resolve().parents]
    with (
        PredictionFiles(folder, str(config.checkpoint), verdicts) as files,
        open_trainer(config, folder, progress=False) as trainer,
    ):
        files.pass_over([(str(path), "neither image nor video by its name") for path in others])
        predictor = Predictor(config, folder, module, prepared, trainer, verdicts, files)
        predictor.score(paths)
        if config.watch:
            log.info("Waiting for files; Ctrl-C ends it")
            predictor.live = True
            watch(arrivals, predictor.score, config.interval)
    show(files, len(others))
    log.info("Written to %s", folder)
    scored, unread = files.counts.total(), files.unread
    if unread and (config.strict or not (scored or config.watch)):
        path, reason = next(iter(unread.items()))
        more = f" (and {len(unread) - 1} more, see skipped.csv)" if len(unread) > 1 else ""
        raise ImageError(f"{path}: {reason}{more}")
    if config.fail_on_anomaly and files.counts[ANOMALOUS]:
        sys.exit(ANOMALY_FOUND)
    return {"scored": scored, "anomalous": files.counts[ANOMALOUS], "skipped": len(unread)}


def preparation(module: LitPaDiM, checkpoint: str) -> dict[str, Any]:
    """How images were prepared for the fit, as arguments of a data module.

    Raises:
        CheckpointError: the checkpoint does not say it.
    """
    data = module.hparams["data"]
    if not {"resize", "crop"} <= data.keys():
        raise CheckpointError(f"{checkpoint} does not say how its images were prepared")
    return {key: data[key] for key in PREPARATION if key in data}


def show(files: PredictionFiles, others: int) -> None:
    """Tell the highest scores, how many are anomalous, and what was skipped."""
    for one in files.highest:
        log.info("%s", one)
    scored, anomalous = files.counts.total(), files.counts[ANOMALOUS]
    if scored > len(files.highest):
        log.info("... are the %d highest of %d scores", len(files.highest), scored)
    if anomalous or files.counts[NORMAL]:
        log.info("%d of %d are anomalous", anomalous, scored)
    if others:
        log.info("%d passed over, neither image nor video by name", others)
    if files.unread:
        log.warning("%d cannot be read:", len(files.unread))
    for path, reason in list(files.unread.items())[:LISTED]:
        log.warning("  %s: %s", path, reason)
    if len(files.unread) > LISTED:
        log.warning("  ... and those in skipped.csv")
