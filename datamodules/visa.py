"""VisA, which says in a table what is for training."""

import csv
from functools import cached_property
from pathlib import Path

from datamodules.category import CategoryData
from datamodules.errors import DatasetError
from datamodules.labelled import GOOD
from datamodules.labelled_images import Sample

SPLIT = "split_csv/1cls.csv"
"""The published split into training and test images, relative to the root."""

_COLUMNS = ("object", "split", "label", "image", "mask")


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
        "candle",
        "capsules",
        "cashew",
        "chewinggum",
        "fryum",
        "macaroni1",
        "macaroni2",
        "pcb1",
        "pcb2",
        "pcb3",
        "pcb4",
        "pipe_fryum",
    )

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """The folders under `root` that hold images, known or not, sorted."""
        return sorted(path.parents[1].name for path in Path(root).glob("*/Data/Images"))

    @cached_property
    def train_paths(self) -> list[Path]:
        """The normal images to fit on, sorted; never empty."""
        paths = [sample.path for sample in self._samples("train")]
        if not paths:
            raise DatasetError(f"{self.root / SPLIT}: has no training image of {self.category!r}")
        return paths

    @cached_property
    def test_samples(self) -> list[Sample]:
        """The test images, sorted by defect and file name."""
        return self._samples("test")

    def _samples(self, split: str) -> list[Sample]:
        rows = [
            row for row in self._rows() if (row["object"], row["split"]) == (self.category, split)
        ]
        samples = [
            Sample(
                path=self.root / row["image"],
                defect=GOOD if row["label"] == "normal" else row["label"],
                masks=(self.root / row["mask"],) if row["mask"] else (),
            )
            for row in rows
        ]
        for sample in samples:
            if sample.label and not sample.masks:
                raise DatasetError(f"{self.root / SPLIT}: names no mask for {sample.path}")
            for file in (sample.path, *sample.masks):
                if not file.is_file():
                    raise DatasetError(f"{file}: no such file; {self.root / SPLIT} names it")
        return sorted(samples, key=lambda sample: (sample.defect, sample.path))

    def _rows(self) -> list[dict[str, str]]:
        """The table, of all categories, once `root` and `category` are known to be right."""
        table = self.root / SPLIT
        if not self.root.is_dir():
            raise DatasetError(f"{self.root}: no such folder; put the data there")
        if not table.is_file():
            raise DatasetError(
                f"{table}: no such file; root is the folder that holds it and the categories"
            )
        if self.category is None:
            raise DatasetError(self._no_category("name a category in it"))
        if not self.folder.is_dir():
            raise DatasetError(self._no_category(f"no category {self.category!r}"))
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                raise DatasetError(f"{table}: has no column {', '.join(missing)}")
            return list(reader)
