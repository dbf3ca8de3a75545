"""Defects made on normal images, to compare settings where no real defect is at hand."""

import math
import random
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.ndimage import (
    binary_erosion,
    binary_fill_holes,
    gaussian_filter,
    map_coordinates,
)
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.decoding import read_image
from datamodules.errors import DatasetError
from datamodules.labelled import LabelledImages
from datamodules.loading import ImageDataset
from datamodules.preprocessing import Preprocessing
from datamodules.samples import GOOD, Sample

STRENGTHS = {
    "paste": (0.15, 1),  # opacity of a patch from elsewhere on the part
    "stain": (5, 64),  # grey levels
    "scratch": (12, 100),  # grey levels
    "warp": (1, 8),  # pixels of an image of 224 x 224
    "smear": (0.25, 1),  # opacity of the blurred image
    "grain": (4, 44),  # grey levels, standard deviation
}
"""Kinds of made defects, each with its faintest and strongest."""

SHARE, MOST = 0.25, 50
"""Of the normal images held out, and how many at most."""

ENOUGH = 300
"""Made defects at least; where few images are held out each is damaged several times."""

LEAST = 8
"""Normal images that are enough to hold some out."""

EXAMPLES = 32
"""Images whose mean shows where the part is."""

EVEN = 10
"""Spread of the mean image's colours, in grey levels, below which all of it is the part."""


class MadeDefects(LabelledImages):
    """Normal images of a data set: most to fit on, the rest to test on, as they are and damaged.

    Each image that is held out is shown once as it is and as often with each kind of defect: small,
    somewhere on the part, and so faint to so strong that not all are found. All of it follows from
    the order of the files' names.

    Args:
        data: set up.

    Raises:
        DatasetError: there are too few images.
    """

    def __init__(self, data: LabelledImages) -> None:
        super().__init__(data.preprocessing, data.loading)
        self.name = data.name
        paths = list(data.train_paths)
        if len(paths) < LEAST:
            raise DatasetError(
                f"select=true holds some normal images out, so it takes {LEAST} or more, got"
                f" {len(paths)}"
            )
        random.Random(0).shuffle(paths)
        count = min(MOST, int(SHARE * len(paths)))
        self.train_paths, held_out = sorted(paths[count:]), sorted(paths[:count])
        kinds = [GOOD, *math.ceil(ENOUGH / len(STRENGTHS) / count) * list(STRENGTHS)]
        self.test_samples = [Sample(path, kind, ()) for kind in kinds for path in held_out]

    def setup(self, stage: str | None = None) -> None:
        """The files have been checked."""

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The images held out, and the same with defects."""
        return self._loader(_Damaged(self.test_samples, self.preprocessing, self.part))

    @cached_property
    def part(self) -> np.ndarray:
        """Places (N, 2), row and column, on the part; see `find_part`."""
        chosen = self.train_paths[:: math.ceil(len(self.train_paths) / EXAMPLES)]
        images = (self.preprocessing.image(self._read(path), path) for path in chosen)
        return np.argwhere(find_part(torch.stack(list(images)).float().mean(dim=0)))

    def _read(self, path: Any) -> Tensor:
        return read_image(path, self.preprocessing.bits)


class _Damaged(ImageDataset):
    def __init__(
        self, samples: Sequence[Sample], preprocessing: Preprocessing, part: np.ndarray
    ) -> None:
        super().__init__(list(enumerate(samples)), preprocessing)
        self.part = part

    def depends_on(self, path: tuple[int, Sample]) -> tuple[Sequence[Any], object]:
        return [path[1].path], (path[0], path[1].defect, zlib.crc32(self.part.tobytes()))

    def item(self, path: tuple[int, Sample]) -> dict[str, Any]:
        number, sample = path
        image = self.preprocessing.image(
            read_image(sample.path, self.preprocessing.bits), sample.path
        )
        mask = np.zeros(image.shape[1:], bool)
        if sample.label:
            rng = np.random.default_rng(number)
            pixels, mask = damage(image.permute(1, 2, 0).numpy(), sample.defect, self.part, rng)
            image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        return {
            "image": image,
            "mask": torch.from_numpy(mask),
            "label": sample.label,
            "defect": sample.defect,
            "path": str(sample.path),
        }


def find_part(mean: Tensor) -> np.ndarray:
    """Where the part is, bool (H, W): what is not of the colour of the border.

    Args:
        mean: (3, H, W), the mean of normal images, in grey levels.
    """
    smooth = gaussian_filter(mean.numpy(), (0, 2, 2))
    border = np.concatenate(
        [smooth[:, [0, -1]].reshape(3, -1), smooth[:, :, 0], smooth[:, :, -1]], 1
    )
    far = np.abs(smooth - np.median(border, axis=1)[:, None, None]).sum(axis=0)
    if far.std() < EVEN:
        return np.ones(far.shape, bool)
    ends = np.array([[far.min()], [far.max()]])
    middle = kmeans2(far.reshape(-1, 1), ends, minit="matrix")[0].mean()
    part = binary_erosion(binary_fill_holes(far > middle), iterations=4, border_value=1)
    return part if part.any() else np.ones_like(part)


def damage(
    image: np.ndarray, kind: str, part: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Put a defect on an image.

    Args:
        image: uint8 (H, W, 3).
        kind: of `STRENGTHS`.
        part: places (N, 2) of the image where its middle may be.
        rng: decides on place, size, shape and strength.

    Returns:
        The image, and the mask of the defect, bool (H, W).
    """
    scale = math.sqrt(image[..., 0].size) / 224
    faintest, strongest = STRENGTHS[kind]
    strength = faintest * (strongest / faintest) ** rng.uniform()
    middle, source = rng.choice(part, 2)
    before = image.astype(np.float32)
    shape = (_line if kind == "scratch" else _blob)(image.shape[:2], middle, scale, rng)
    opacity = shape[..., None]
    if kind == "warp":
        turn, shift = rng.uniform(0, 2 * np.pi), strength * scale * gaussian_filter(shape, scale)
        y, x = np.indices(shape.shape)
        places = [y + shift * np.sin(turn), x + shift * np.cos(turn)]
        channels = np.moveaxis(before, 2, 0)
        after = np.stack([map_coordinates(c, places, order=1, mode="nearest") for c in channels], 2)
    elif kind == "grain":
        noise = gaussian_filter(rng.standard_normal((*shape.shape, 1)), (0.7, 0.7, 0))
        after = before + strength * opacity * noise / noise.std()
    elif kind in ("stain", "scratch"):
        colour = rng.choice([-1, 1]) + 0.5 * rng.standard_normal(3)
        after = before + strength * opacity * colour / np.abs(colour).mean()
    else:
        other = gaussian_filter(before, (4 * scale, 4 * scale, 0))
        if kind == "paste":
            other = np.roll(before, tuple(middle - source), axis=(0, 1))
        after = before + strength * opacity * (other - before)
    return after.round().clip(0, 255).astype(np.uint8), shape > 0.3


def _blob(
    size: tuple[int, int], middle: np.ndarray, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Opacity (H, W) of an uneven ellipse with a soft edge, 3 to 13 pixels in radius at 224."""
    radius = scale * 3 * (13 / 3) ** rng.uniform()
    turn, aspect = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.5, 0.5))
    y, x = np.indices(size) - middle[:, None, None]
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    noise = gaussian_filter(rng.standard_normal(size), radius / 2)
    distance = np.hypot(along * aspect, across / aspect) / radius + 0.25 * noise / noise.std()
    opacity: np.ndarray = ((1 - distance) * radius / 2 / scale + 0.5).clip(0, 1)
    return opacity


def _line(
    size: tuple[int, int], middle: np.ndarray, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Opacity (H, W) of a bent line, 12 to 60 pixels long and 2 wide at 224."""
    t = np.linspace(-0.5, 0.5, 1000)
    along, bend = t * scale * rng.uniform(12, 60), 2 * t**2 * scale * rng.uniform(-18, 18)
    turn = rng.uniform(0, 2 * np.pi)
    y = middle[0] + along * np.sin(turn) + bend * np.cos(turn)
    x = middle[1] + along * np.cos(turn) - bend * np.sin(turn)
    line = np.zeros(size)
    places = np.stack([y, x]).round().astype(int)
    inside = ((places >= 0) & (places < np.array(size)[:, None])).all(axis=0)
    line[tuple(places[:, inside])] = 1
    smooth: np.ndarray = gaussian_filter(line, scale * rng.uniform(0.6, 1.1))
    return smooth / smooth.max()
