"""CUHK Avenue: videos of one camera, masks in MATLAB files."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from scipy.io import loadmat, whosmat
from torch import Tensor

from datamodules.clips import Annotations, Clip
from datamodules.errors import DatasetError
from datamodules.finding import is_video
from datamodules.surveillance import SurveillanceData, numbered, reading_masks, require_length

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

    def _train_videos(self) -> list[Path]:
        return list(_videos(self.folder / self.train_folder).values())

    def _test_videos(self) -> list[tuple[Path, Path]]:
        testing = self.folder / "testing_videos"
        masks = self.folder / "ground_truth_demo" / "testing_label_mask"
        videos = _videos(testing)
        return [
            (videos.get((n,), testing / f"{n:02}.avi"), masks / f"{n}_label.mat")
            for (n,) in sorted({*videos, *numbered(masks.glob("*.mat"), r"(\d+)_label")})
        ]

    def _annotations(self, clip: Clip, masks: Path) -> Annotations:
        require_length(masks, _count_masks(masks), clip)
        return Annotations(partial(_read_masks, masks))


def _read_masks(path: Path, wanted: Sequence[int]) -> Iterator[tuple[Path, Tensor]]:
    with reading_masks(path), path.open("rb") as file:  # which can only be read as a whole
        cells = loadmat(file, variable_names=[VARIABLE])[VARIABLE].flat
    for number in wanted:
        yield path, torch.from_numpy(cells[number] != 0)


def _count_masks(path: Path) -> int:
    """Masks of a MATLAB file; they are not read."""
    with reading_masks(path), path.open("rb") as file:
        cells = {name: shape for name, shape, kind in whosmat(file) if kind == "cell"}
    if VARIABLE not in cells:
        raise DatasetError(f"{path}: has no cell array {VARIABLE}; unpack it again")
    return math.prod(cells[VARIABLE])


def _videos(folder: Path) -> dict[tuple[int, ...], Path]:
    return numbered(filter(is_video, folder.glob("*")), r"(\d+)")
