"""MVTec AD, and any data set in its layout."""

import glob
import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from datamodules.download import download_archive
from datamodules.errors import DatasetError
from datamodules.finding import IMAGE_SUFFIXES, find_folders, find_images, is_image
from datamodules.labelled import CategoryData
from datamodules.loading import Loading
from datamodules.preprocessing import Preprocessing
from datamodules.samples import GOOD, Sample

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "textures": ("carpet", "grid", "leather", "tile", "wood"),
    "objects": (
        *("bottle", "cable", "capsule", "hazelnut", "metal_nut"),
        *("pill", "screw", "toothbrush", "transistor", "zipper"),
    ),
}

ARCHIVE_URL = (
    "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283"
    "/download/420938113-1629960298/mvtec_anomaly_detection.tar.xz"
)
ARCHIVE_SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"

_log = logging.getLogger(__name__)


class MVTecLayout(CategoryData):
    """One category folder, one folder a defect below it; arguments as for `CategoryData`.

    ```
    <root>/<category>/train/good/*                              normal images
                      test/good/*, test/<defect>/*              optional
                      ground_truth/<defect>/<stem>_mask.png     one for each image of a defect
    ```

    A data set that differs in a name says so in its class.
    """

    normal_folder: ClassVar[str] = GOOD
    mask_pattern: ClassVar[str] = "{stem}_mask.png"
    """Where the masks of an image are, under ground_truth/<defect>."""

    _remedy: ClassVar[str] = "put the data there"

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """The folders under `root` with a folder of training images, known or not, sorted."""
        folders = find_folders(Path(root))
        return [path.name for path in folders if (path / "train" / cls.normal_folder).is_dir()]

    @cached_property
    def train_paths(self) -> list[Path]:
        folder = self.folder / "train" / self.normal_folder
        paths = find_images(folder)
        if not paths:
            raise DatasetError(self._diagnosis(folder))
        return paths

    @cached_property
    def test_samples(self) -> list[Sample]:
        folders = find_folders(self.folder / "test")
        samples = [self._sample(path) for folder in folders for path in find_images(folder)]
        owners: dict[Path, Path] = {}
        for sample in samples:
            for mask in sample.masks:
                owner = owners.setdefault(mask, sample.path)
                if owner != sample.path:
                    raise DatasetError(
                        f"{mask}: is the mask of {owner} and of {sample.path}: rename one of them"
                    )
        return samples

    def _sample(self, image: Path) -> Sample:
        defect = image.parent.name
        if defect == self.normal_folder:
            return Sample(image, GOOD, ())
        folder = self.folder / "ground_truth" / defect
        pattern = self.mask_pattern.format(stem=glob.escape(image.stem))
        masks = sorted(filter(is_image, folder.glob(pattern)))
        if not masks:
            expected = folder / self.mask_pattern.format(stem=image.stem)
            raise DatasetError(f"{image}: a defect image needs its mask, expected at {expected}")
        return Sample(image, defect, tuple(masks))

    def _diagnosis(self, train_folder: Path) -> str:
        """Why there are no training images, and what to do about it."""
        if not self.root.is_dir():
            return f"{self.root}: no such folder; {self._remedy}"
        if train_folder.is_dir():
            return f"{train_folder}: no images to train on ({', '.join(IMAGE_SUFFIXES)})"
        if self.category is None:
            train = f"train/{self.normal_folder}"
            return self._no_category(f"has no {train}, so name a category in it")
        if self.folder.is_dir():
            return f"{train_folder}: no such folder; normal training images are expected there"
        if (self.root / "train" / self.normal_folder).is_dir():
            return f"{self.root}: is itself a category's folder; set category to null"
        return self._no_category(f"no category {self.category!r}")


class MVTec(MVTecLayout):
    """MVTec AD (Bergmann et al., CVPR 2019), or any folder in its layout.

    Args:
        root, category, preprocessing, loading: see `CategoryData`.
        download: fetch the archive into `root` if the category is not there.
        download_url: a .tar.xz or .tar.gz of category folders.
        download_sha256: its SHA-256, hexadecimal.
        shots: `shots` and `shot_seed`, see `LabelledImages`.
    """

    known_categories = tuple(name for names in CATEGORIES.values() for name in names)
    category_groups = CATEGORIES
    _remedy = "put the data there, or set download to true"

    def __init__(
        self,
        root: str | Path,
        category: str | None = None,
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
        download: bool = False,
        download_url: str = ARCHIVE_URL,
        download_sha256: str = ARCHIVE_SHA256,
        **shots: Any,
    ) -> None:
        super().__init__(root, category, preprocessing, loading, **shots)
        self.download = download
        self.download_url = download_url
        self.download_sha256 = download_sha256

    def prepare_data(self) -> None:
        """Download what is missing, if asked to.

        Raises:
            DatasetError: the archive cannot be fetched, is not the expected one, or is unsafe.
        """
        if self.download and not self.folder.is_dir():
            if self.download_url == ARCHIVE_URL:
                if self.category not in (None, *self.known_categories):  # before 5 GB are fetched
                    known = ", ".join(self.known_categories)
                    raise DatasetError(
                        f"MVTec AD has no category {self.category!r}; it has {known}"
                    )
                _log.info(
                    "MVTec AD, (c) MVTec Software GmbH, is licensed under CC BY-NC-SA 4.0:"
                    " no commercial use. https://creativecommons.org/licenses/by-nc-sa/4.0/"
                )
            download_archive(self.download_url, self.download_sha256, self.root)
