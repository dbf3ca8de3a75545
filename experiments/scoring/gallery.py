"""The test images worth a look, and what a page needs to show them at any threshold."""

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.drawing.pictures import Scale
from experiments.files import short, write_text

IMAGE_SIDE = 512
MAP_SIDE = 256
"""Pixels of the longer side at most: a run of 16 images stays below 2 MB."""


KINDS = {"best": "clearest", "confused": "misclassified", "worst": "hardest"}
"""The kinds of choices, as files name them, and the words for them that are shown."""


@dataclass(frozen=True)
class Choice:
    """A test image chosen to be shown.

    Args:
        index: of the image, as the recorder counts.
        kind: "best" or "worst" of those by their margin from the threshold on the right side of it,
            or "confused", the nearest on the wrong side.
        rank: from 1 on, within its kind.
        path, defect, label, score: as in predictions.csv.
    """

    index: int
    kind: str
    rank: int
    path: str
    defect: str
    label: int
    score: float

    @property
    def name(self) -> str:
        """Such as "best_01": begins the names of all its files."""
        return f"{self.kind}_{self.rank:02}"


@dataclass(frozen=True)
class Drawn:
    """A chosen image, its picture, and what that shows: image (H, W, 3), maps and masks (H, W).

    `found` are the pixels from the threshold on; None where there is no threshold.
    """

    choice: Choice
    picture: Image.Image
    image: np.ndarray
    anomaly_map: np.ndarray
    mask: np.ndarray | None
    levels: Mapping[str, np.ndarray]
    found: np.ndarray | None = None

    @property
    def file_name(self) -> str:
        """Of the picture."""
        path = Path(self.choice.path)
        return f"{short(f'{self.choice.name}_{path.parent.name}_{path.stem}')}.png"


def choose(
    columns: Mapping[str, Sequence[Any]], kept: Container[int], threshold: float | None, count: int
) -> list[Choice]:
    """Images of the lowest and highest margin, and misclassified ones, at most `count` together.

    The margin of an anomalous image is its score less the threshold, that of a normal one the
    reverse. Half have the lowest margins; up to a quarter, if so many are left, are those on the
    wrong side of the threshold but nearest to it; the others have the highest margins.

    Args:
        columns: path, label, defect and score of each image.
        kept: numbers of the images to choose from.
        threshold: a score from which on an image counts as anomalous; None for the median.
        count: of images.
    """
    scores, labels = np.array(columns["score"]), np.array(columns["label"])
    middle = float(np.median(scores)) if threshold is None else threshold
    margins = np.where(labels == 1, scores - middle, middle - scores)
    order = [i for i in np.argsort(margins, kind="stable").tolist() if i in kept]
    count = min(count, len(order))
    worst, others = order[: count // 2], order[count // 2 :]
    confused = [i for i in others if (scores[i] >= middle) != labels[i]][::-1][: count // 4]
    best = [i for i in others[::-1] if i not in confused][: count - len(worst) - len(confused)]

    def ranked(kind: str, indices: list[int]) -> Iterator[Choice]:
        for rank, i in enumerate(indices, 1):
            yield Choice(
                i, kind, rank, *(columns[n][i] for n in ("path", "defect", "label", "score"))
            )

    return [*ranked("best", best), *ranked("confused", confused), *ranked("worst", worst)]


class Gallery:
    """Writes images, maps and masks into a folder, and gallery.json with what they are.

    A map is an 8-bit grey image on one scale for all: k stands for bottom (top / bottom)^(k / 255),
    because an anomaly may score 50 times what is normal, and a threshold lies in between.

    Args:
        folder: is made; what it holds of an earlier gallery is removed.
        scale: of colours, for all maps; what is dark by it is the bottom.
        top: the highest score of any map.
    """

    def __init__(self, folder: Path, scale: Scale, top: float) -> None:
        self.folder = folder
        self.scale = scale
        self.top = max(top, 1e-6)
        self.bottom = float(np.clip(scale.low, self.top / 1000, self.top / 2))
        self._images: list[dict[str, Any]] = []
        folder.mkdir(exist_ok=True)
        for stale in [*folder.glob("*_*.png"), *folder.glob("*_*.jpg")]:
            stale.unlink()

    def add(self, one: Drawn) -> None:
        """Write the files of an image."""
        name = one.choice.name
        small = _bounded(Image.fromarray(one.image), IMAGE_SIDE)
        small.save(self.folder / f"{name}_image.jpg", quality=88)
        self._save_map(one.anomaly_map, f"{name}_map")
        for i, part in enumerate(one.levels.values()):
            self._save_map(part, f"{name}_level{i}")
        if one.mask is not None:
            # Whatever a pixel has a share in: a scratch one pixel wide must not get lost.
            mask = Image.fromarray(255 * one.mask.astype(np.uint8))
            mask = mask.resize(small.size, Image.Resampling.BOX).point(lambda v: 255 * (v > 0))
            mask.convert("1").save(self.folder / f"{name}_mask.png")
        peak = one.anomaly_map.argmax()
        at_peak = {level: float(part.flat[peak]) for level, part in one.levels.items()}
        self._images.append({"name": name, **asdict(one.choice), "levels": at_peak})

    def close(self) -> None:
        """Write gallery.json."""
        described = {
            "scale": {"low": self.scale.low, "high": self.scale.high},
            "bottom": self.bottom,
            "top": self.top,
            "images": self._images,
        }
        write_text(self.folder / "gallery.json", json.dumps(described, indent=1) + "\n")

    def _save_map(self, scores: np.ndarray, name: str) -> None:
        share = np.log(np.maximum(scores / self.bottom, 1)) / np.log(self.top / self.bottom)
        grey = Image.fromarray((255 * share).round().astype(np.uint8))
        _bounded(grey, MAP_SIDE).save(self.folder / f"{name}.png")


def _bounded(image: Image.Image, side: int) -> Image.Image:
    """The image, made smaller if its longer side exceeds a number of pixels."""
    share = side / max(image.size)
    if share >= 1:
        return image
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.BOX)
