"""Masks of what is not looked at in single images: a folder of them, by the images' names."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from datamodules.errors import DatasetError
from datamodules.finding import find_images

_log = logging.getLogger(__name__)


def own_masks(folder: Path | None, images: Iterable[Path]) -> dict[Path, tuple[Path]]:
    """The mask of each image that has one: of line3/part.jpg it is line3/part.png in the folder.

    It names one folder above the image, or as many as distinguish it; the longest name counts.

    Raises:
        DatasetError: there is no such folder, or a mask is that of two images.
    """
    if folder is None:
        return {}
    found = find_images(folder, recursive=True)
    masks = {m.relative_to(folder).with_suffix("").parts: m for m in found if m.suffix == ".png"}
    if not masks:
        raise DatasetError(f"preprocessing.ignore={folder}: no such file, nor a folder of .png")
    owners: dict[Path, Path] = {}
    name: tuple[str, ...] = ()
    for image in images:
        name = Path(os.path.abspath(image)).with_suffix("").parts
        mask = next((masks[end] for i in range(len(name) - 1) if (end := name[i:]) in masks), None)
        if mask and (other := owners.setdefault(mask, image)) != image:
            raise DatasetError(
                f"{mask}: may be of {other} or of {image}: put it into one more of its image's"
                " folders, or rename one of them"
            )
    if name and not owners:
        example = folder.joinpath(*name[-2:])
        _log.warning("preprocessing.ignore: no mask is named as an image, such as %s.png", example)
    return {image: (mask,) for mask, image in owners.items()}
