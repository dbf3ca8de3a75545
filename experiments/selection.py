"""Settings compared where no real defect is known: on defects made on normal images."""

import logging

from omegaconf import DictConfig
from pytorch_lightning import LightningDataModule

from datamodules import DatasetError, LabelledImages, MadeDefects
from experiments.build import new_model, new_trainer, progress
from padim import Backbone, LitPaDiM, PaDiM


def selection(
    config: DictConfig, backbone: Backbone, data: LightningDataModule
) -> dict[str, float]:
    """Fit a model of its own to most of the normal images, and measure it on the others.

    Args:
        config: of the fit.
        backbone: of the model.
        data: of the fit, set up.

    Returns:
        "select/pro"; nothing in other processes than the first.
    """
    made = made_defects(data)
    module = LitPaDiM(uncalibrated(config, backbone, made))
    new_trainer(config, callbacks=progress(config)).fit(module, datamodule=made)
    return measured(config, module, made)


def made_defects(data: LightningDataModule) -> MadeDefects:
    """Normal images of a data set with defects made on them.

    Raises:
        DatasetError: it is none of image files, or has too few.
    """
    if not isinstance(data, LabelledImages):
        raise DatasetError(
            f"select=true makes defects on image files, and data._target_={type(data).__name__} has"
            " none"
        )
    return MadeDefects(data)


def uncalibrated(config: DictConfig, backbone: Backbone, data: MadeDefects) -> PaDiM:
    """The model that a configuration describes, without a threshold."""
    bare = config.copy()
    bare.save_model = False
    return new_model(bare, backbone, data.ignored)


def measured(config: DictConfig, module: LitPaDiM, data: LightningDataModule) -> dict[str, float]:
    """Test a fitted module; returns as `selection`."""
    trainer = new_trainer(config, callbacks=progress(config))
    metrics_log = logging.getLogger("padim.metrics")
    metrics_log.disabled = True  # that made defects are small is meant
    try:
        found = trainer.test(module, datamodule=data, verbose=False)[0]
    finally:
        metrics_log.disabled = False
    return {"select/pro": float(found["pixel/pro"])} if "pixel/pro" in found else {}
