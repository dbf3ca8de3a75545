"""CUHK Avenue: videos of one camera, masks in MATLAB files."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from scipy.io import loadmat, whosmat

from datamodules.clips import Clip, FrameTruth
from datamodules.errors import DatasetError
from datamodules.surveillance import SurveillanceData, require_length
from datamodules.video import is_video

VARIABLE = "volLabel"
"""The cell array of a MATLAB file, with a mask in each cell."""


class Avenue(SurveillanceData):
    """CUHK Avenue (Lu et al., ICCV 2013), read as published; one model.

    ```
    <root>/training_videos/01.avi                            normal
           testing_videos/01.avi
           ground_truth_demo/testing_label_mask/1_label.mat  one mask a frame, 0 normal
    ```

    A frame is anomalous if any pixel of its mask is. While a test video is read, all its masks
    are in memory, frames x height x width bytes in each worker. Batches and arguments as for
    `SurveillanceData`.
    """

    name = "avenue"
    train_folder = "training_videos"
    train_names = "01.avi and so on"

    def _train_videos(self) -> dict[str, Path]:
        videos = _numbered(filter(is_video, self.folder.glob(f"{self.train_folder}/*")))
        return {f"{number:02}": path for number, path in sorted(videos.items())}

    def _test_videos(self) -> dict[str, tuple[Path, Path]]:
        testing = self.folder / "testing_videos"
        masks = self.folder / "ground_truth_demo" / "testing_label_mask"
        videos = _numbered(filter(is_video, testing.glob("*")))
        numbers = sorted({*videos, *_numbered(masks.glob("*.mat"), r"(\d+)_label")})
        return {
            f"{number:02}": (
                videos.get(number, testing / f"{number:02}.avi"),
                masks / f"{number}_label.mat",
            )
            for number in numbers
        }

    def _truth(self, clip: Clip, masks: Path) -> "_Truth":
        require_length(masks, _count_masks(masks), clip)
        return _Truth(masks)


@dataclass(frozen=True)
class _Truth:
    """The MATLAB file of all masks, which can only be read as a whole."""

    masks: Path

    def read(self, wanted: Sequence[int]) -> Iterator[FrameTruth]:
        with _opened(self.masks) as file:
            cells = loadmat(file, variable_names=[VARIABLE])[VARIABLE].flat
        for number in wanted:
            mask = torch.from_numpy(cells[number] != 0)
            yield FrameTruth(mask, int(mask.any()), self.masks)


def _count_masks(path: Path) -> int:
    """Masks of a MATLAB file; they are not read."""
    with _opened(path) as file:
        cells = {name: shape for name, shape, kind in whosmat(file) if kind == "cell"}
    if VARIABLE not in cells:
        raise DatasetError(f"{path}: has no cell array {VARIABLE}; unpack it again")
    return math.prod(cells[VARIABLE])


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A MATLAB file; whatever goes wrong with it becomes a `DatasetError` with its path."""
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; each test video needs its masks") from None
    except Exception as error:  # damage surfaces as OSError, MatReadError, zlib.error, ...
        raise DatasetError(f"{path}: cannot be read as masks: {error}") from error


def _numbered(paths: Iterable[Path], pattern: str = r"(\d+)") -> dict[int, Path]:
    """Number -> path, of those whose whole stem matches."""
    matches = ((re.fullmatch(pattern, path.stem), path) for path in paths)
    return {int(match[1]): path for match, path in matches if match}
