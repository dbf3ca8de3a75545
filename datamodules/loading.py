"""Lists of image files -> batches; what all data modules share."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from datamodules.errors import DatasetError
from datamodules.images import Preprocessing, ResizeMode, Size, read_image

PREPARATION = ("resize", "crop", "resize_mode", "roi")
"""The arguments of a data module that say how its images are prepared."""


class ImageDataset(Dataset[dict[str, Any]]):
    """Items {"image": uint8 (3, H, W), "path": str}, in the order of `paths`."""

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self.paths = paths
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        return {"image": self.preprocessing.image(read_image(path), path), "path": str(path)}


class Loader(DataLoader[dict[str, Any]]):
    """A loader whose workers end with its last batch or its first error, and never outlive it.

    As long as a forked worker lives, memory that was there before it is copied page by page when it
    is written to: factoring the covariances took up to four times as long. And a worker that is
    left over would keep the program from ending after an error.

    Args:
        dataset: gives items, or whole batches where `batch_size` is None.
        num_workers: processes that decode; 0 for none.
        batch_size, collate_fn: see `DataLoader`.
    """

    def __init__(
        self,
        dataset: Dataset[dict[str, Any]],
        num_workers: int,
        batch_size: int | None,
        collate_fn: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size,
            num_workers=num_workers,
            collate_fn=collate_fn,
            worker_init_fn=_outlive_first_sigterm,
            pin_memory=torch.cuda.is_available(),
            # A spawned worker imports torch anew, so it is worth keeping for the next epoch; a
            # forked one starts at once and would only hold memory.
            persistent_workers=num_workers > 0 and multiprocessing.get_start_method() == "spawn",
        )

    def __iter__(self) -> Any:
        batches = super().__iter__()
        try:
            for number, batch in enumerate(batches, start=1):
                if number == len(self):
                    next(batches, None)
                yield batch
        finally:
            # An error's traceback holds the iterator, whose workers would wait for it to go.
            if self.num_workers and not self.persistent_workers:
                batches._shutdown_workers()  # type: ignore[attr-defined]


class ImageDataModule(LightningDataModule):
    """Base of the data modules: preprocessing, batch size and workers.

    Args:
        resize, crop, resize_mode, roi: see `Preprocessing`.
        batch_size: images a batch (B); the last one holds what is left.
        num_workers: processes that decode; None for one a core, at most 8; 0 for none.

    Of several processes of a trainer each loads its own share of the images, and none is repeated.

    Attributes:
        counted: paths of training images, as in a batch, that are left out: they were fitted on
            before.
    """

    def __init__(
        self,
        resize: Size | None = 256,
        crop: Size | None = 224,
        batch_size: int = 32,
        num_workers: int | None = None,
        resize_mode: ResizeMode = "stretch",
        roi: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(resize, crop, resize_mode=resize_mode, roi=roi)
        self.counted: Collection[str] = ()
        self.batch_size = batch_size
        self.num_workers = min(8, _cores()) if num_workers is None else num_workers

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images in a batch."""
        return self.preprocessing.image_size

    @property
    def _processes(self) -> int:
        """How many share the images."""
        return self.trainer.world_size if self.trainer else 1

    def _share(self, count: int) -> range:
        """Which of `count` images are this process's: even parts in a row, to one image.

        Raises:
            DatasetError: a process would have none.
        """
        if count < self._processes:
            raise DatasetError(
                f"{count} images are too few for {self._processes} processes:"
                f" use {count} device{'s' * (count != 1)} at most"
            )
        rank = self.trainer.global_rank if self.trainer else 0
        return range(count * rank // self._processes, count * (rank + 1) // self._processes)

    def _loader(
        self,
        dataset: Dataset[dict[str, Any]],
        collate: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
    ) -> DataLoader[dict[str, Any]]:
        """Batches in the data set's order: no statistic depends on it, and paths stay sorted.

        Of several processes each has its own share.
        """
        if self._processes > 1:
            dataset = Subset(dataset, self._share(len(dataset)))  # type: ignore[arg-type]
        return Loader(dataset, self.num_workers, self.batch_size, collate)


def _outlive_first_sigterm(_: int) -> None:
    """Let a worker go on where all processes of a job are told to end: the main one ends it.

    Only the first signal is ignored. The interpreter ends what is left over by another one.
    """

    def die_next_time(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, die_next_time)


def _cores() -> int:
    """Cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # as torchrun says
