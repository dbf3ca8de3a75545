"""One category of a data set of image files; what the inspection benchmarks share."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.images import ResizeMode, Size
from datamodules.labelled_images import LabelledImages
from datamodules.pose import RandomPose


class CategoryData(LabelledImages):
    """Base of the data sets whose categories are folders of images.

    Args:
        root: the folder that holds the categories.
        category: the name of one; None if `root` itself is the category's folder.
        resize, crop, batch_size, num_workers, resolution, resize_mode, roi: see `LabelledImages`.
        pose: a random view of every image and mask instead of the centre; None for none.

    Raises:
        ValueError: the resolution is "original" with a pose.
    """

    def __init__(
        self,
        root: str | Path,
        category: str | None = None,
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
        pose: RandomPose | None = None,
        resolution: str = "crop",
        resize_mode: ResizeMode = "stretch",
        roi: Sequence[int] | None = None,
    ) -> None:
        super().__init__(resize, crop, batch_size, num_workers, resolution, resize_mode, roi)
        if resolution == "original" and pose:
            raise ValueError("data.resolution=original cannot be used with data.pose: set it null")
        self.root = Path(root)
        self.category = category
        self.folder = self.root if category is None else self.root / category
        self.name = self.folder.resolve().name
        # So an image is "bottle/train/good/000.png", whether or not root is the category's folder.
        parent = self.folder / os.pardir
        self.preprocessing = replace(self.preprocessing, pose=pose, root=parent)

    def _no_category(self, problem: str) -> str:
        """An error's text for a `category` that is not there or not given."""
        present = self.present_categories(self.root)
        near = difflib.get_close_matches(self.category or "", present, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        found = f"it has {', '.join(present)}" if present else "it has none"
        return f"{self.root}: {problem}{hint}; {found}"
