"""Parts of a user's own, as configurations name them: a reduction and a plain data module."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules import read_image
from padim import Reduction


class EveryNth(Reduction):
    """Every n-th channel."""

    def __init__(self, n: int) -> None:
        self.n = n

    @property
    def config(self) -> dict[str, Any]:
        return {"kind": "nth", "n": self.n}

    def channels(self, total: int) -> torch.Tensor:
        return torch.arange(0, total, self.n)


class Plain(LightningDataModule):
    """Images of a folder in MVTec's layout, with labels and nothing else."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = Path(root)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        images = sorted(self.root.glob("train/good/*.png"))
        return DataLoader([{"image": read_image(path)} for path in images], batch_size=4)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        images = sorted(self.root.glob("test/*/*.png"))
        labels = [int(path.parent.name != "good") for path in images]
        items = [{"image": read_image(p), "label": n} for p, n in zip(images, labels, strict=True)]
        return DataLoader(items, batch_size=4)
