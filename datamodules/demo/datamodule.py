"""The demo data as a data module."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from datamodules.demo.generate import SCENES, make_demo
from datamodules.images import ResizeMode, Size
from datamodules.mvtec import MVTec


class Demo(MVTec):
    """Two categories in MVTec AD's layout, made under `root` on first use (see `make_demo`).

    `flange` is an aligned object: a machined part on a bench mat. `fabric` is a texture: a woven
    cloth. Defects, a kind a folder, are of varying contrast and size; some are hard to see.

    Args:
        root: the folder to make them in, or that holds them.
        category: flange or fabric.
        resize, crop, batch_size, num_workers, resolution, resize_mode, roi: see `CategoryData`.
        n_train, n_test, size, seed: see `make_demo`; other values than those that a category
            was made with make it anew.
    """

    known_categories = tuple(SCENES)
    category_groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        root: str | Path = "data/demo",
        category: str = "flange",
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
        resolution: str = "crop",
        resize_mode: ResizeMode = "stretch",
        roi: Sequence[int] | None = None,
        *,
        n_train: int = 120,
        n_test: int = 60,
        size: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            category,
            resize=resize,
            crop=crop,
            batch_size=batch_size,
            num_workers=num_workers,
            resolution=resolution,
            resize_mode=resize_mode,
            roi=roi,
        )
        self.n_train = n_train
        self.n_test = n_test
        self.size = size
        self.seed = seed

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """All of them: what is not there yet is made."""
        return sorted(cls.known_categories)

    def prepare_data(self) -> None:
        """Make the images, if they are not there yet.

        Raises:
            DatasetError: there is no such category, or the images cannot be written to `root`.
        """
        make_demo(self.root, str(self.category), self.n_train, self.n_test, self.size, self.seed)
