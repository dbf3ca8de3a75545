"""The name of a run on a tracker: the resolver ${run:...} of the group logger."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

TAG_LENGTH = 64
"""Characters that W&B allows."""


def register() -> None:
    """Make ${run:command}, ${run:folder}, ${run:tags} and ${run:name} known to OmegaConf."""
    OmegaConf.register_new_resolver("run", _resolve, replace=True)


def _resolve(what: str, *, _root_: DictConfig) -> Any:
    # Jobs that share a pass are composed before they are run, when theirs is not yet Hydra's own.
    hydra: Any = _root_.hydra if "hydra" in _root_ else None
    if hydra is None and HydraConfig.initialized():
        hydra = HydraConfig.get()
    if hydra is None:  # composed in a notebook
        return {"command": "notebook", "folder": None, "tags": [], "name": ""}[what]
    # As they were given: one may refer to what is not in Hydra's part, or to this.
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    match what:
        case "command":
            return hydra.job.name
        case "folder":
            several = hydra.mode == RunMode.MULTIRUN
            return Path(hydra.sweep.dir if several else hydra.run.dir).name
        case "tags":
            return OmegaConf.create(_tags(overrides))
        case "name":
            return _name(overrides)
    raise ValueError(f"${{run:{what}}}: choose one of command, folder, tags, name")


def _tags(overrides: list[str]) -> list[str]:
    """The overrides that have a bearing on metrics: "reduction.d=50", ..."""
    from experiments.tables.results import OTHER_KEYS  # imports pandas: `--help` need not wait

    known = [o for o in overrides if not o.lstrip("+~").startswith(OTHER_KEYS)]
    return [o[:TAG_LENGTH].replace("${", "{") for o in known]  # or it would be resolved once more


def _name(overrides: list[str]) -> str:
    """The same as one text, without the category, of which a job may have several, and paths."""
    from datamodules import Folder
    from experiments.tables.results import CATEGORY_KEYS

    keys = (*CATEGORY_KEYS, *(f"data.{key}" for key in Folder.path_keys))
    return ",".join(tag for tag in _tags(overrides) if not tag.startswith(keys))
