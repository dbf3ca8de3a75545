"""Small data sets in the layouts the data modules read."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from datamodules import Loading, Preprocessing
from datamodules.loading import ImageDataModule

Data = TypeVar("Data", bound=ImageDataModule)


def data_module(kind: type[Data], *args: Any, **options: Any) -> Data:
    """A data module of some arguments, those of its `Preprocessing` and `Loading` among them."""

    def taken(names: Any) -> dict[str, Any]:
        return {f.name: options.pop(f.name) for f in fields(names) if f.name in options}

    preprocessing = replace(kind.default_preprocessing, **taken(Preprocessing))
    return kind(*args, preprocessing=preprocessing, loading=Loading(**taken(Loading)), **options)


def mvtec_tree(
    root: Path, category: str = "widget", train: int = 6, size: int = 64, seed: int = 0
) -> Path:
    """A category folder in MVTec AD's layout: noise on a gradient, defects are bright squares.

    Two good test images and two of the defect "spot", with masks.
    """
    rng = np.random.default_rng(seed)
    ramp = np.linspace(60, 160, size)[:, None, None]

    def save(path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)

    def good() -> np.ndarray:
        return ramp + rng.normal(0, 8, (size, size, 3))

    folder = root / category
    for i in range(train):
        save(folder / "train" / "good" / f"{i:03}.png", good())
    for i in range(2):
        save(folder / "test" / "good" / f"{i:03}.png", good())
        mask = np.zeros((size, size))
        mask[20 + 8 * i : 36 + 8 * i, 24:40] = 255
        save(folder / "test" / "spot" / f"{i:03}.png", good() + mask[..., None])
        save(folder / "ground_truth" / "spot" / f"{i:03}_mask.png", mask)
    return folder
