"""padim calibrate: set a model's threshold by images that it was not fitted on."""

import logging
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from torch import Tensor
from tqdm import tqdm

from datamodules import DataError, DatasetError, ImageError, ImageFiles, LabelledImages, find_inputs
from datamodules.folder import find_defects
from datamodules.labelled import GOOD
from experiments.evaluate import data_config
from experiments.predict import preparation
from experiments.running.model_file import save_model
from experiments.running.trainer import open_trainer
from experiments.scoring.evaluation import by_defect
from experiments.scoring.verdicts import Verdicts
from padim import Calibration, CheckpointError, ImageMetrics, LitPaDiM, Prediction, load_checkpoint
from padim.sample import image_keys

RATE, BEST_F1 = "rate", "best_f1"

TESTED = "the best F1 of the images it was tested on"
"""What a threshold is that was chosen on the test set."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Write the same model with another calibration, and tell how it judges labelled images.

    Raises:
        ValueError: a key is wrong, or an image is of the fit.
        DataError: there are no images, or none that can be read.
        CheckpointError: the file is no model, or does not say how to prepare images.
    """
    require_keys(config)
    module = load_checkpoint(config.checkpoint)
    prepared = preparation(module, config.checkpoint)
    calibration = renewed(module.model.calibration, config.threshold.false_alarm_rate)
    with open_trainer(config, None, progress=False) as trainer:
        module.to(trainer.strategy.root_device)
        if config.test_set:
            labelled = score_test_set(module, trainer)
            source = TESTED
            log.warning("The threshold is chosen by test images: what they say of it is too good")
        else:
            labelled = calibrate(calibration, config, prepared, module, trainer)
            normal, abnormal = (int((labelled["label"] == label).sum()) for label in (0, 1))
            source = f"the best F1 of {normal} normal and {abnormal} abnormal images"
        if config.threshold.by == BEST_F1:
            calibration.fix(best_f1(labelled, "score"), best_f1(labelled, "peak"), source)
        else:
            warn_of_few_images(calibration)
        module.model.calibration = calibration
        tell(module, labelled)
        save_model(module, trainer, config.out)


def require_keys(config: DictConfig) -> None:
    """Raise a `ValueError` where keys do not go together."""
    by = config.threshold.by
    if by not in (RATE, BEST_F1):
        raise ValueError(f"threshold.by must be {RATE} or {BEST_F1}, got {by!r}")
    if config.test_set:
        if config.images or config.abnormal or by != BEST_F1:
            raise ValueError(
                "test_set=true takes the test images of the fit's data in place of others, and only"
                f" for threshold.by={BEST_F1}"
            )
    elif not config.images:
        raise ValueError("no images: name normal ones that the model was not fitted on")
    elif by == BEST_F1 and not config.abnormal:
        raise ValueError(f"threshold.by={BEST_F1} needs images with defects: abnormal=bad/")


def renewed(calibration: Calibration | None, rate: float | None) -> Calibration:
    """The same scores, without fixed thresholds, and for another rate if one is given."""
    old = calibration or Calibration()
    new = Calibration(old.images, old.false_alarm_rate if rate is None else rate)
    new.load_state_dict({**old.state_dict(), "limits": new.limits})
    return new


def calibrate(
    calibration: Calibration,
    config: DictConfig,
    prepared: dict[str, Any],
    module: LitPaDiM,
    trainer: Trainer,
) -> pd.DataFrame:
    """Keep what the normal files score; return the table of these and of the abnormal ones."""
    normal = find_inputs(config.images)
    defects = find_defects(config.abnormal) if config.abnormal else {}
    own, others = ({path.resolve() for path in paths} for paths in (normal, defects))
    if own & others:
        raise DatasetError(f"{min(own & others)}: is given twice, as normal and as abnormal")
    if fitted := (own | others) & fitted_files(module):
        raise ValueError(
            f"those are images of the fit: what they score is too low ({min(fitted)}"
            f"{f' and {len(fitted) - 1} more' * (len(fitted) > 1)})"
        )
    loading = {"batch_size": config.batch_size, "num_workers": config.num_workers}

    def scored(paths: Iterable[Path]) -> Iterator[tuple[list[str], Prediction]]:
        batches = ImageFiles(list(paths), **prepared, **loading).predict_dataloader()
        for batch, prediction in score(module, trainer, batches):
            yield batch["path"], prediction

    calibration.keep(
        (*prediction, image_keys(PurePath(path).parts[-2:] for path in paths))
        for paths, prediction in scored(normal)
    )
    rows = [([GOOD] * len(calibration.scores), calibration.scores, calibration.peaks)]
    if defects:
        rows += [
            ([defects[Path(path)] for path in paths], scores, maps.amax(dim=(1, 2)))
            for paths, (scores, maps) in scored(defects)
        ]
    return table(rows)


def fitted_files(module: LitPaDiM) -> set[Path]:
    """The images of the fit, as far as they are still where they were."""
    try:
        data = instantiate(data_config(module.hparams["data"], DictConfig({}), []))
        paths = data.train_paths if isinstance(data, LabelledImages) else []
    except (DataError, CheckpointError):
        paths = []
    return {path.resolve() for path in paths}


def score_test_set(module: LitPaDiM, trainer: Trainer) -> pd.DataFrame:
    """The table of the test images of the fit's data."""
    data = instantiate(data_config(module.hparams["data"], DictConfig({}), []))
    data.setup("test")
    if not data.has_test:
        raise ValueError(f"{data.folder} has no test images")
    return table(
        (batch["defect"], scores, maps.amax(dim=(1, 2)))
        for batch, (scores, maps) in score(module, trainer, data.test_dataloader())
    )


def score(
    module: LitPaDiM, trainer: Trainer, batches: Iterable[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Prediction]]:
    """Batches of what can be read, each with what the model says of it."""
    skipped: list[tuple[str, str]] = []
    read = 0
    for batch in tqdm(batches, desc="Scoring", unit="batch", disable=None):
        skipped += batch.get("skipped", [])
        read += len(batch["path"])
        if batch["path"]:
            with torch.inference_mode(), trainer.precision_plugin.forward_context():
                prediction = module(batch["image"].to(module.device))
            yield batch, prediction
    for path, reason in skipped:
        log.warning("Left out: %s: %s", path, reason)
    if not read:
        raise ImageError("none of these images can be read")


def table(batches: Iterable[tuple[list[str], Tensor, Tensor]]) -> pd.DataFrame:
    """A row an image: defect, score, peak (its highest pixel) and label, 1 anomalous."""
    columns = ("defect", "score", "peak")
    parts = [
        pd.DataFrame(dict(zip(columns, (defects, scores.cpu(), peaks.cpu()), strict=True)))
        for defects, scores, peaks in batches
    ]
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(label=(whole["defect"] != GOOD).astype(int))


def best_f1(labelled: pd.DataFrame, column: str) -> float:
    """The threshold of the best F1.

    Of the highest pixels it is one for pixels: with the maximum as image score it is the same
    number, so that an image is anomalous exactly where it has an anomalous pixel.
    """
    metrics = ImageMetrics()
    metrics.update(*(torch.tensor(labelled[name].to_numpy()) for name in (column, "label")))
    found = metrics.compute()
    if not found:
        raise ValueError("the best F1 takes normal images and ones with defects")
    return float(found["f1_max_threshold"])


def warn_of_few_images(calibration: Calibration) -> None:
    """Say so where the rate wanted cannot be promised."""
    wanted, rate = calibration.false_alarm_rate, calibration.rate
    if rate != wanted:
        log.warning(
            "a false-alarm rate of %g takes %d normal images: with %d it is %.2g",
            *(wanted, math.ceil(1 / wanted) - 1, len(calibration.scores), rate),
        )


def tell(module: LitPaDiM, labelled: pd.DataFrame) -> None:
    """Log the threshold and, where there are abnormal images, what it finds."""
    verdicts = Verdicts.of(module.model, None, None)
    log.info("%s", verdicts)
    if labelled["label"].any():
        judged = labelled.assign(verdict=labelled["score"] >= verdicts.threshold)
        for defect, images, share in by_defect(judged).itertuples():
            log.info("  %s: %d of %d called anomalous", defect, round(share * images), images)
