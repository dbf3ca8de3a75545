"""Passes over the images, kept in a folder: what can be derived from one needs no image again."""

import hashlib
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules import DatasetError, LabelledImages
from datamodules.cache import DECODERS, stamps
from experiments.files import replacing
from experiments.sweeps.features import Need

FORMAT = 1
"""Raised whenever older files can no longer be read."""

State = dict[str, Any]

log = logging.getLogger(__name__)


class KeptPasses:
    """The passes, of `sweep.cache`, over the images of one data module by one backbone.

    What has become invalid stays in the folder, which is deleted as a whole. Several sweeps may use
    it at once: a file is whole at any moment.

    Args:
        folder: made where it is missing.
        settings: whatever a pass depends on, beside files and versions.
        data: set up.
    """

    def __init__(self, folder: str, settings: str, data: LabelledImages) -> None:
        loaders = [data.train_dataloader()] + [data.test_dataloader()] * data.has_test
        images: list[Any] = [loader.dataset for loader in loaders]
        parts = [one.depends_on(path) for one in images for path in one.paths]
        files = [file for some, _ in parts for file in some]
        if data.preprocessing.ignore is not None:
            files.append(Path(data.preprocessing.ignore).expanduser())
        others = [type(one).__name__ for one in images], [other for _, other in parts]
        try:
            known = FORMAT, settings, DECODERS, torch.__version__, others, stamps(files)
        except OSError as error:
            raise DatasetError(str(error)) from error
        name = hashlib.sha256(ascii(known).encode()).hexdigest()
        self.folder = Path(folder).expanduser().absolute() / name[:16]

    def find(self, need: Need, network: nn.Module) -> State | None:
        """One of a pass by a network of the same weights that has all that is needed."""
        own = digests(network)
        for path in sorted(self.folder.glob("*.pt")):
            state = _read(path)
            if state and need.is_met(state) and _agree(own, state["weights"]):
                log.info("No image is read: the pass is kept in %s", path)
                return state
        return None

    def write(self, state: State, network: nn.Module) -> None:
        """Keep a pass; see `PassFeatures.state`."""
        state = {**state, "weights": digests(network)}
        size, train = state["sample"]["size"], bool(state["train"])
        known = ascii((state["weights"], state["channels"], size, train))
        path = self.folder / f"{hashlib.sha256(known.encode()).hexdigest()[:16]}.pt"
        try:
            with replacing(path) as whole:
                torch.save(state, whole)
        except (OSError, RuntimeError) as error:  # torch calls a full disk so
            log.warning("The pass is not kept in %s: %s", path, error)
        else:
            log.info("The pass is kept in %s, %.0f MB", path, path.stat().st_size / 1e6)


def digests(network: nn.Module) -> dict[str, str]:
    """Of the weights, by name: a network that is cut elsewhere shares some."""
    return {
        name: hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()
        for name, value in network.state_dict().items()
    }


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _read(path: Path) -> State | None:
    """None, with a warning, of a file that is damaged, or is none of ours."""
    try:
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():
                raise ValueError(f"{damaged} is damaged")
        state: State = torch.load(path, weights_only=True, mmap=True)
    except Exception as error:  # damage takes many forms
        log.warning("%s is damaged and is made anew (%s)", path, error)
        return None
    return state
