"""VisA, whose split into training and test images is a table."""

from functools import cached_property
from pathlib import Path

import pandas as pd

from datamodules.errors import DatasetError
from datamodules.finding import find_folders
from datamodules.labelled import CategoryData
from datamodules.samples import GOOD, Sample

SPLIT = "split_csv/1cls.csv"
"""The published split into training and test images, relative to the root."""


class VisA(CategoryData):
    """One category of VisA (Zou et al., ECCV 2022) as published; arguments as for `CategoryData`.

    ```
    <root>/split_csv/1cls.csv                     object,split,label,image,mask; paths from root
           <category>/Data/Images/Normal/*.JPG
           <category>/Data/Images/Anomaly/*.JPG
           <category>/Data/Masks/Anomaly/*.png
    ```

    `root` holds the table, so it cannot be a category's folder. Defects are all "anomaly".
    """

    known_categories = (
        *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
        *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
    )

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """The folders under `root` that hold images, known or not, sorted."""
        folders = find_folders(Path(root))
        return [path.name for path in folders if (path / "Data" / "Images").is_dir()]

    @cached_property
    def train_paths(self) -> list[Path]:
        paths = [sample.path for sample in self._samples("train")]
        if not paths:
            raise DatasetError(f"{self.root / SPLIT}: has no training image of {self.category!r}")
        return paths

    @cached_property
    def test_samples(self) -> list[Sample]:
        return self._samples("test")

    def _samples(self, split: str) -> list[Sample]:
        table = self._table()
        chosen = table[(table["object"] == self.category) & (table["split"] == split)]
        samples = []
        for label, image, mask in chosen[["label", "image", "mask"]].itertuples(index=False):
            defect, masks = (GOOD if label == "normal" else label), (mask,) if mask else ()
            sample = Sample(self.root / image, defect, tuple(self.root / name for name in masks))
            if sample.label and not mask:
                raise DatasetError(f"{self.root / SPLIT}: names no mask for {sample.path}")
            for file in (sample.path, *sample.masks):
                if not file.is_file():
                    raise DatasetError(f"{file}: no such file; {self.root / SPLIT} names it")
            samples.append(sample)
        return sorted(samples, key=lambda sample: (sample.defect, sample.path))

    def _table(self) -> pd.DataFrame:
        """The table, of all categories, once `root` and `category` are known to be right."""
        path = self.root / SPLIT
        if not self.root.is_dir():
            raise DatasetError(f"{self.root}: no such folder; put the data there")
        if not path.is_file():
            raise DatasetError(
                f"{path}: no such file; root is the folder that holds it and the categories"
            )
        if self.category is None:
            raise DatasetError(self._no_category("name a category in it"))
        if not self.folder.is_dir():
            raise DatasetError(self._no_category(f"no category {self.category!r}"))
        columns = ["object", "split", "label", "image", "mask"]
        table = pd.read_csv(path, dtype=str, na_filter=False, encoding="utf-8-sig")
        if missing := [name for name in columns if name not in table]:
            raise DatasetError(f"{path}: has no column {', '.join(missing)}")
        return table
