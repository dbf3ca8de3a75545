"""UCSD Ped2: folders of frames of one camera, masks in image files."""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from datamodules.clips import Annotations, Clip, natural_order
from datamodules.images import find_images, read_mask
from datamodules.surveillance import SurveillanceData, require_length

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

    def _train_videos(self) -> dict[str, Path]:
        return _folders(self.folder / self.train_folder, r"Train\d+")

    def _test_videos(self) -> dict[str, tuple[Path, Path]]:
        testing = self.folder / "Test"
        names = [name.removesuffix("_gt") for name in _folders(testing, r"Test\d+_gt")]
        unlabelled = _folders(testing, r"Test\d+").keys() - names
        if unlabelled:
            left_out = ", ".join(sorted(unlabelled))
            _log.warning("%s: clips without masks are left out: %s", testing, left_out)
        return {name: (testing / name, testing / f"{name}_gt") for name in names}

    def _annotations(self, clip: Clip, masks: Path) -> Annotations:
        files = sorted(find_images(masks), key=natural_order)
        require_length(masks, len(files), clip)
        return Annotations(partial(_read_masks, files))


def _read_masks(files: Sequence[Path], wanted: Sequence[int]) -> Iterator[tuple[Path, Tensor]]:
    return ((files[number], read_mask(files[number])) for number in wanted)


def _folders(parent: Path, pattern: str) -> dict[str, Path]:
    """Name -> folder, of those whose whole name matches, sorted."""
    found = (path for path in parent.glob("*") if re.fullmatch(pattern, path.name))
    return {path.name: path for path in sorted(filter(Path.is_dir, found), key=natural_order)}
