"""Data sets that fit on normal images and test on labelled ones.

What a data module has to give, whatever its class: training batches {"image": uint8 (B, 3, H, W),
"path": list[str]}, and test batches that also hold {"label": int64 (B,), 1 anomalous, "defect":
list[str]}. These may hold {"mask": bool (B, H, W)} and {"mask_known": bool (B,)}, false for an
image of which it is not known which pixels are anomalous, and {"ignored": bool (B, H, W)}, pixels
of each image, as prepared, that are not looked at. Where masks differ in size, "mask" is a
list of B, bool (H_i, W_i), beside {"window": float (B, 4)}: the part of its mask that each image
shows (top, left, bottom, right, fractions and places beyond the mask included).
"""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.decoding import largest_value, read_image
from datamodules.errors import DatasetError
from datamodules.finding import count_copies
from datamodules.ignoring import own_masks
from datamodules.loading import ImageDataModule, ImageDataset, Loader, Loading
from datamodules.notices import hold_notices
from datamodules.preprocessing import Preprocessing
from datamodules.samples import LabelledDataset, Sample, require_sound
from datamodules.video import read_named

ALL = "all"
"""The `shots` that stand for every training image."""

_log = logging.getLogger(__name__)


class LabelledData(ImageDataModule):
    """Base of the data sets of this package: one category with its training and test images.

    Commands use what is named here, beside the batches, of any data module that has it.

    Attributes:
        path_keys: the arguments that are paths, or patterns or lists of them.
        category_key: the argument that chooses the category.
        known_categories: the published ones; others of the layout are read as well.
        category_groups: groups of them over which figures are averaged.
        pooled: whether figures over all categories are also taken from all their images at once.
        streamed: whether the images are frames of videos, of which there may be any number.
        name: of the category.
        folder: of its images.
    """

    path_keys: ClassVar[tuple[str, ...]] = ("root",)
    category_key: ClassVar[str] = "category"
    known_categories: ClassVar[tuple[str, ...]] = ()
    category_groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    pooled: ClassVar[bool] = False
    streamed: ClassVar[bool] = False
    name: str
    folder: Path

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """The categories under `root`, known or not, sorted; empty if there is no such folder."""
        raise NotImplementedError

    @classmethod
    def missing_categories(cls, root: str | Path) -> list[str]:
        """The known categories that are not under `root`, in their published order."""
        present = cls.present_categories(root)
        return [name for name in cls.known_categories if name not in present]

    @property
    def train_files(self) -> Sequence[Path]:
        """The image files to fit on; none where there are videos in their place."""
        return ()

    @property
    def has_test(self) -> bool:
        """Whether there is any test image."""
        raise NotImplementedError

    @property
    def example(self) -> Tensor:
        """The first training image, uint8 (3, H, W)."""
        return read_image(self.train_files[0], self.preprocessing.bits)

    @property
    def ignored(self) -> Tensor | None:
        """Pixels of prepared images that are not looked at; see `Preprocessing.ignored`."""
        if self.preprocessing.ignore is None:
            return None
        with hold_notices():  # those of the image come when it is read to be fitted on
            return self.preprocessing.ignored(self.example.shape[1:])

    def find_bits(self) -> None:
        """Settle how many bits 16-bit files use by those fitted on, unless it is given.

        All are read if the first is one, up to a value that takes 16 bits. The number is even, as
        it is of cameras.
        """
        if self.preprocessing.bits is not None:
            return
        files = self.train_files
        bits = 8 if files and largest_value(files[0]) else 16
        if bits < 16:
            values = _LargestValues(files, self.preprocessing)
            unseeded = torch.Generator()  # so that what the fit draws at random stays the same
            for batch in Loader(values, num_workers=self.loading.workers, generator=unseeded):
                needed = int(batch["largest"]).bit_length()
                bits = max(bits, needed + needed % 2)
                if bits == 16:
                    break
            _log.info("16-bit images are read by %d bits, which all training images fit in", bits)
        self.preprocessing = replace(self.preprocessing, bits=bits)

    def picture(self, path: str) -> Tensor:
        """The test image that a batch's path names, of its mask's size: uint8 (3, H, W)."""
        with hold_notices():  # those of a test are logged
            image = read_named(path, self.preprocessing.bits)
        if self.preprocessing.resolution == "original":
            return image
        rows, columns = self.preprocessing.unpadded(image.shape[-2], image.shape[-1])
        return self.preprocessing.image(image, path)[:, rows, columns]


class LabelledImages(LabelledData):
    """Base of the data sets of image files; test batches hold "mask_known".

    Args:
        preprocessing, loading: see `ImageDataModule`.
        shots: number of training images to fit on, drawn at random, or "all".
        shot_seed: they are drawn with it. With one seed the smaller is part of the larger.
    """

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
        shots: int | str = ALL,
        shot_seed: int = 0,
    ) -> None:
        super().__init__(preprocessing, loading)
        self.shots = shots
        self.shot_seed = shot_seed

    @cached_property
    def train_paths(self) -> list[Path]:
        """The normal images that there are to fit on, sorted; never empty."""
        raise NotImplementedError

    @cached_property
    def test_samples(self) -> list[Sample]:
        """The test images, sorted by defect and file name."""
        raise NotImplementedError

    @property
    def train_files(self) -> list[Path]:
        return self.train_paths

    def subsample(self, shots: int | str, seed: int) -> list[Path]:
        """Training images drawn at random, sorted; see the arguments of the class.

        Raises:
            DatasetError: there are fewer.
        """
        if shots == ALL:
            return self.train_paths
        if int(shots) > len(self.train_paths):
            raise DatasetError(
                f"data.shots={shots} are more than the {len(self.train_paths)} training images"
            )
        order = torch.randperm(len(self.train_paths), generator=torch.Generator().manual_seed(seed))
        return sorted(self.train_paths[i] for i in order[: int(shots)].tolist())

    @property
    def has_test(self) -> bool:
        return bool(self.test_samples)

    def setup(self, stage: str | None = None) -> None:
        """List and check all files now, so that a run does not fail when it is half done.

        Raises:
            DatasetError: a folder or a file is missing, a test image or a mask has no header, or
                they differ in size.
        """
        _ = self._checked_paths if stage != "test" else self.train_paths  # on first access
        _ = self._checked_samples

    @cached_property
    def _checked_paths(self) -> list[Path]:
        """The training images, once copies among them have been counted."""
        if copies := count_copies(self.train_paths):
            _log.warning(
                "%d of %d training images are copies of others: one that is left out is still seen,"
                " so thresholds promise less than they say",
                *(copies, len(self.train_paths)),
            )
        return self.train_paths

    @cached_property
    def _checked_samples(self) -> list[Sample]:
        """The test images, once the headers of their files have been read."""
        require_sound(self._with_own_masks)
        return self.test_samples

    @property
    def _with_own_masks(self) -> list[Sample]:
        """The test images, each with its own mask of what is not looked at, if it has one."""
        return [replace(s, ignored=self._own_masks.get(s.path, ())) for s in self.test_samples]

    @cached_property
    def _own_masks(self) -> dict[Path, tuple[Path]]:
        return own_masks(self.preprocessing.ignore_folder, [s.path for s in self.test_samples])

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The training images that are drawn, once, sorted, without those counted."""
        self.find_bits()
        drawn = self.subsample(self.shots, self.shot_seed)
        paths = [path for path in drawn if str(path) not in self.counted]
        return self._loader(ImageDataset(paths, self.preprocessing))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The test images, once, in the order of `test_samples`."""
        return self._loader(LabelledDataset(self._with_own_masks, self.preprocessing))


class _LargestValues(ImageDataset):
    """Items {"largest": int}; see `largest_value`."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"largest": largest_value(self.paths[index])}


class CategoryData(LabelledImages):
    """Base of the data sets whose categories are folders of images.

    Args:
        root: the folder that holds the categories.
        category: the name of one; None if `root` itself is the category's folder.
        preprocessing, loading, shots, shot_seed: see `LabelledImages`.
    """

    def __init__(
        self,
        root: str | Path,
        category: str | None = None,
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
        shots: int | str = ALL,
        shot_seed: int = 0,
    ) -> None:
        super().__init__(preprocessing, loading, shots, shot_seed)
        self.root = Path(root).expanduser()
        self.category = None if category is None else str(category)  # Hydra reads 7 as a number
        self.folder = self.root / (self.category or "")
        self.name = os.path.basename(os.path.abspath(self.folder))
        # So an image is "bottle/train/good/000.png", whether or not root is the category's folder.
        self.preprocessing = replace(self.preprocessing, root=self.folder / os.pardir)

    def _no_category(self, problem: str) -> str:
        """An error's text for a `category` that is not there or not given."""
        present = self.present_categories(self.root)
        near = difflib.get_close_matches(self.category or "", present, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        if near and (self.category or "").replace(".", "").isdecimal():  # Hydra reads 1_1 as 11
            hint = f"{hint[:-1]} a number is quoted: 'data.{self.category_key}=\"{near[0]}\"')"
        found = f"it has {', '.join(present)}" if present else "it has none"
        return f"{self.root}: {problem}{hint}; {found}"
