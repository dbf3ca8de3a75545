"""UCSD Ped2: folders of frames of one camera, masks in image files."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from datamodules.clips import Annotations, Clip, natural_order
from datamodules.decoding import read_mask
from datamodules.finding import find_images
from datamodules.surveillance import SurveillanceData, numbered, require_length

_log = logging.getLogger(__name__)


class UCSDPed2(SurveillanceData):
    """UCSD Ped2 (Mahadevan et al., CVPR 2010), read as published; one model.

    ```
    <root>/Train/Train001/001.tif    clip, frame; normal
           Test/Test001/001.tif
           Test/Test001_gt/001.bmp   0 normal
    ```

    A frame is anomalous if any pixel of its mask is. A test clip without a folder of masks, of
    which Ped1, in the same layout, has many, is left out with a warning. Batches and arguments as
    for `SurveillanceData`; `root` is the folder of `Train` and `Test`.
    """

    name = "ped2"
    train_folder = "Train"
    train_names = "Train001/001.tif and so on"

    def _train_videos(self) -> list[Path]:
        return list(_folders(self.folder / self.train_folder, r"Train(\d+)").values())

    def _test_videos(self) -> list[tuple[Path, Path]]:
        testing = self.folder / "Test"
        masks = _folders(testing, r"Test(\d+)_gt")
        videos = _folders(testing, r"Test(\d+)")
        if unlabelled := [video.name for number, video in videos.items() if number not in masks]:
            left_out = ", ".join(unlabelled)
            _log.warning("%s: clips without masks are left out: %s", testing, left_out)
        return [(path.with_name(path.name.removesuffix("_gt")), path) for path in masks.values()]

    def _annotations(self, clip: Clip, masks: Path) -> Annotations:
        files = sorted(find_images(masks), key=natural_order)
        require_length(masks, len(files), clip)
        return Annotations(partial(_read_masks, files))


def _read_masks(files: Sequence[Path], wanted: Sequence[int]) -> Iterator[tuple[Path, Tensor]]:
    return ((files[number], read_mask(files[number])) for number in wanted)


def _folders(parent: Path, pattern: str) -> dict[tuple[int, ...], Path]:
    folders = (path for path in parent.glob("*") if path.is_dir() and not path.suffix)
    return numbered(folders, pattern)
