"""Data sets that fit on normal images and test on labelled ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from datamodules.loading import ImageDataModule

GOOD = "good"
"""The `defect` of a normal image, whatever a data set calls it."""


class LabelledData(ImageDataModule):
    """One category of a data set; arguments as for `ImageDataModule`.

    Training batches are {"image": uint8 (B, 3, H, W), "path": list[str]}. Test batches also hold
    {"mask": bool (B, H, W), "label": int64 (B,), 1 anomalous, "defect": list[str]}.
    """

    path_keys: ClassVar[tuple[str, ...]] = ("root",)
    """The arguments that are paths, or patterns or lists of them."""

    category_key: ClassVar[str] = "category"
    """The argument that chooses the category."""

    known_categories: ClassVar[tuple[str, ...]] = ()
    """The published ones; others of the layout are read as well."""

    category_groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Groups of them over which figures are averaged."""

    pooled: ClassVar[bool] = False
    """Whether figures over all categories are also taken from all their images at once."""

    streamed: ClassVar[bool] = False
    """Whether the images are frames of videos, of which there may be any number."""

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
    def has_test(self) -> bool:
        """Whether there is any test image."""
        raise NotImplementedError

    def picture(self, path: str) -> Tensor:
        """The test image that a batch's path names, of its mask's size: uint8 (3, H, W)."""
        raise NotImplementedError
