"""padim calibrate: set a model's threshold by images that it was not fitted on."""

import logging
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules import (
    GOOD,
    DataError,
    DatasetError,
    ImageError,
    ImageFiles,
    LabelledImages,
    find_defects,
    find_inputs,
)
from experiments.app import launch
from experiments.build import new_trainer
from experiments.files import model_file, require_writable
from experiments.model_files import fitted_preprocessing, save_model, saved_data
from experiments.scoring.verdicts import Verdicts
from padim import Calibration, CheckpointError, ImageMetrics, LitPaDiM, load_checkpoint
from padim.calibration import sampled
from padim.sample import fingerprints, image_keys

RATE, BEST_F1 = "rate", "best_f1"

TESTED = "the best F1 of the images it was tested on"
"""The source of a threshold that was chosen on the test set."""

log = logging.getLogger(__name__)


def run(config: DictConfig) -> None:
    """Write the same model with another calibration, and log how it judges labelled images.

    Raises:
        ValueError: a key is wrong, or an image is of the fit.
        OSError: no model can be written there.
        DataError: there are no images, or none that can be read.
        CheckpointError: the file is no model, or does not say how to prepare images.
    """
    require_keys(config)
    require_writable(model_file(config.out or "runs"))
    module = load_checkpoint(config.checkpoint)
    calibration = renewed(module.model.calibration, config.threshold.false_alarm_rate)
    collector = Collector()
    trainer = new_trainer(config, callbacks=[collector], alone=True)
    if config.test_set:
        labelled = collector.collect(trainer, module, dataloaders=test_batches(module))
        source = TESTED
        log.warning("The threshold is chosen by test images: what they say of it is too good")
    else:
        paths, collector.defects = find_files(config, module)
        own_masks = config.preprocessing.ignore
        preprocessing = fitted_preprocessing(module, config.checkpoint, own_masks)
        files = ImageFiles(paths, preprocessing, instantiate(config.loading))
        labelled = collector.collect(trainer, module, datamodule=files)
        if collector.fitted and not config.allow_overlap:
            raise ValueError(
                f"{collector.fitted} of these images are images of the fit, or copies: what they"
                " score is too low; to insist: allow_overlap=true"
            )
        calibration.keep_sampled(collector.kept)
        abnormal = labelled["label"].sum()
        source = f"the best F1 of {len(labelled) - abnormal} normal and {abnormal} abnormal images"
    if config.threshold.by == BEST_F1:
        calibration.fix(best_f1(labelled, "score"), best_f1(labelled, "peak"), source)
    else:
        calibration.warn_if_few()
    module.model.calibration = calibration
    log_outcome(module, labelled)
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


def find_files(config: DictConfig, module: LitPaDiM) -> tuple[list[Path], dict[str, str]]:
    """All images, the normal ones first, and the kind of defect by path of the others.

    Raises:
        DatasetError: there are none, or an image is both.
        ValueError: an image is of the fit.
    """
    found = find_inputs(config.images)
    found.log("images")
    normal = list(found.files)
    defects = find_defects(config.abnormal) if config.abnormal else {}
    own, others = ({path.resolve() for path in paths} for paths in (normal, defects))
    if own & others:
        raise DatasetError(f"{min(own & others)}: is given twice, as normal and as abnormal")
    try:
        data = instantiate(saved_data(module))
        images = isinstance(data, LabelledImages)
        fitted = data.subsample(data.shots, data.shot_seed) if images else []
    except (DataError, CheckpointError):  # they are not where they were
        fitted = []
    again = (own | others) & {path.resolve() for path in fitted}
    if again and not config.allow_overlap:
        raise ValueError(
            f"those are images of the fit: what they score is too low ({min(again)}"
            f"{f' and {len(again) - 1} more' * (len(again) > 1)})"
        )
    return [*normal, *defects], {str(path): kind for path, kind in defects.items()}


def test_batches(module: LitPaDiM) -> Iterable[Any]:
    """The test images of the fit's data."""
    data = instantiate(saved_data(module))
    data.setup("test")
    if not data.has_test:
        raise ValueError(f"{data.folder} has no test images")
    return data.test_dataloader()


class Collector(Callback):
    """Collects what a trainer predicts of labelled images.

    Attributes:
        defects: the kind by path, of batches that do not say it; the others are good.
        rows: kind, score and peak (the highest pixel) of each image.
        fitted: number of images that the model was fitted on.
        kept: what a calibration keeps of the good images of each batch, as of `sampled`.
    """

    def __init__(self) -> None:
        self.defects: dict[str, str] = {}
        self.rows: list[tuple[str, float, float]] = []
        self.fitted = 0
        self.kept: list[tuple[Tensor, ...]] = []
        self._skipped: list[tuple[str, str]] = []

    def collect(self, trainer: Trainer, module: LitPaDiM, **data: Any) -> pd.DataFrame:
        """A row an image that a trainer predicts: defect, score, peak and label, 1 anomalous.

        Raises:
            ImageError: no image can be read, of the normal or of the abnormal ones.
        """
        trainer.predict(module, return_predictions=False, **data)
        for path, reason in self._skipped:
            log.warning("Left out: %s: %s", path, reason)
        table = pd.DataFrame(self.rows, columns=["defect", "score", "peak"])
        table["label"] = (table["defect"] != GOOD).astype(int)
        if table["label"].nunique() < (2 if self.defects else 1):
            raise ImageError("none of these images can be read")
        return table

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: int
    ) -> None:
        """Add a batch."""
        assert isinstance(pl_module, LitPaDiM)
        self._skipped += batch.get("skipped", [])
        self.fitted += int(torch.isin(fingerprints(batch["image"]), pl_module.fingerprints).sum())
        paths = batch["path"]
        kinds = batch.get("defect") or [self.defects.get(path, GOOD) for path in paths]
        scores, maps = outputs["scores"].cpu(), outputs["maps"].cpu()
        self.rows += zip(kinds, scores.tolist(), maps.amax(dim=(1, 2)).tolist(), strict=True)
        good = torch.tensor([kind == GOOD for kind in kinds], dtype=torch.bool)
        keys = image_keys(PurePath(path).parts[-2:] for path in paths)
        ignored = outputs["ignored"].cpu()[good] if "ignored" in outputs else None
        self.kept.append(sampled(scores[good], maps[good], keys[good], ignored))


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


def log_outcome(module: LitPaDiM, labelled: pd.DataFrame) -> None:
    """Log the threshold and, where there are abnormal images, what it finds."""
    verdicts = Verdicts.of(module.model)
    log.info("%s", verdicts)
    if labelled["label"].any():
        for defect, scores in labelled.groupby("defect")["score"]:
            found = (scores >= verdicts.threshold).sum()
            log.info("  %s: %d of %d called anomalous", defect, found, len(scores))


if __name__ == "__main__":
    launch("calibrate")
