"""Model files: what they say of the fit's data, and writing them."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import LightningDataModule, Trainer

from datamodules import LabelledData, Preprocessing
from experiments.build import image_size
from experiments.files import model_file, replacing
from experiments.folders import own_folder
from experiments.scoring.verdicts import Verdicts
from experiments.trust import trusted_data
from padim import CheckpointError, LitPaDiM, PaDiM

DATA_GROUPS = ("data", "preprocessing", "loading")
"""Groups whose keys, given on the command line, replace what a model file says of its data."""

log = logging.getLogger(__name__)


def portable(config: DictConfig, data: LightningDataModule | None = None) -> dict[str, Any]:
    """The data's configuration as plain values that hold from any folder.

    Args:
        config: the group `data`.
        data: made of it; what it has found of its images is filled in.
    """
    plain: Any = OmegaConf.to_container(config, resolve=True)
    keys = getattr(get_class(plain["_target_"]), "path_keys", ())
    given = {key: plain[key] for key in keys if plain.get(key)}
    if isinstance(data, LabelledData) and "preprocessing" in plain:
        plain["preprocessing"]["bits"] = data.preprocessing.bits
    if (plain.get("preprocessing") or {}).get("ignore"):
        plain["preprocessing"]["ignore"] = _absolute(plain["preprocessing"]["ignore"])
    return {**plain, **{key: _absolute(paths) for key, paths in given.items()}}


def _absolute(paths: str | list[str]) -> str | list[str]:
    if isinstance(paths, str):
        return str(Path(paths).expanduser().absolute())
    return [str(Path(path).expanduser().absolute()) for path in paths]


def saved_data(
    module: LitPaDiM, composed: DictConfig | None = None, overrides: Sequence[str] = ()
) -> DictConfig:
    """The data of the fit, except for the keys overridden now.

    `data=NAME` replaces them all, but that 16-bit images are read as for the fit unless it is said.

    Args:
        module: loaded from a model file.
        composed: the configuration of the command.
        overrides: of the command line.

    Raises:
        CheckpointError: the saved configuration is not to be trusted; see `trusted_data`.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    keys = [override.key_or_group for override in parsed]
    if composed is None:
        return OmegaConf.create(trusted_data(module.hparams["data"]))
    if "data" in keys or not module.hparams["data"]:
        keep_bits(composed, module)
        return composed.data
    inner = {}
    for key in keys:
        group, _, rest = key.partition(".")
        if rest and group in DATA_GROUPS:
            inner[rest if group == "data" else key] = key
    merged = OmegaConf.create(trusted_data(module.hparams["data"], inner))
    if "preprocessing.ignore" in inner:
        require_own_masks(composed.preprocessing.ignore)
    for place, key in inner.items():
        OmegaConf.update(merged, place, OmegaConf.select(composed, key), force_add=True)
    return merged


def keep_bits(config: DictConfig, module: LitPaDiM) -> None:
    """Where `preprocessing.bits` is null, set it to what it was for the fit."""
    saved = trusted_data(module.hparams["data"], ["_target_"]).get("preprocessing") or {}
    if config.preprocessing.get("bits") is None:
        OmegaConf.update(config, "preprocessing.bits", saved.get("bits"), force_add=True)


def asks_for_data(overrides: Sequence[str]) -> bool:
    """Whether the command line, and not a model file, asks for data to be downloaded or made."""
    return any(o.lstrip("+").startswith(("data=", "data.download=")) for o in overrides)


def fitted_preprocessing(
    module: LitPaDiM, checkpoint: str | Path, ignore: str | None = None
) -> Preprocessing:
    """The preprocessing of the fit, but that a random view becomes the centre's.

    `ignore` is a folder of masks of the images at hand: what all ignore is in the model.

    Raises:
        CheckpointError: the checkpoint does not say it.
    """
    # A user's own data module is not made here.
    saved = trusted_data(module.hparams["data"], ["_target_"]).get("preprocessing")
    if not saved:
        raise CheckpointError(
            f"{checkpoint} does not say how its images were prepared: give it with"
            " preprocessing=whole preprocessing.resize=..."
        )
    require_own_masks(ignore)
    prepared: Preprocessing = instantiate({**saved, "rotation_crop": None, "ignore": ignore})
    return prepared


def require_own_masks(ignore: str | None) -> None:
    """Raise a `ValueError` where `preprocessing.ignore` of a model in use is one mask for all."""
    if ignore and not Path(ignore).expanduser().is_dir():
        raise ValueError(
            f"preprocessing.ignore={ignore} is no folder of masks; what is ignored in any image is"
            " settled by the fit"
        )


def require_fitted_size(module: LitPaDiM, data: LightningDataModule) -> None:
    """Raise a `ValueError` unless images have the size that the model was fitted for."""
    fitted, given = module.model.backbone.image_size, image_size(data)
    if given != fitted:
        raise ValueError(
            f"the model was fitted on images of {fitted}, preprocessing.resize and"
            f" preprocessing.crop give {given}"
        )


def log_threshold(model: PaDiM, before: float | None) -> None:
    """Log the threshold of a model that has seen more images since it was another one."""
    log.info("%s", Verdicts.of(model))
    if before is not None:
        log.warning(
            "The threshold was %.4g. Images are scored once, by the model of then, which had seen"
            " fewer and scored higher: padim calibrate sets it by images at hand",
            before,
        )


def save_model(module: LitPaDiM, trainer: Trainer, out: str | None) -> None:
    """Write a model, which the trainer need not have fitted, and log where.

    That is as `model_file` says, or in a new folder.
    """
    own = model_file(out or str(own_folder())) if trainer.is_global_zero else Path()
    path = trainer.strategy.broadcast(own)
    write_model(module, trainer, path)
    log.info("A model of %d images is written to %s", module.model.statistics.count, path)


def write_model(module: LitPaDiM, trainer: Trainer, path: Path) -> None:
    """Write a model, which the trainer need not have fitted, whole or not at all."""
    trainer.strategy.connect(module)
    with replacing(path) as whole:
        # Lightning writes a temporary file first, for which another disk may have no room.
        before, tempfile.tempdir = tempfile.tempdir, str(whole.parent)
        try:
            trainer.save_checkpoint(whole)
        finally:
            tempfile.tempdir = before
