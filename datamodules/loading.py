"""Batches of images; what all data modules share."""

import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from datamodules.cache import ItemCache
from datamodules.decoding import read_image
from datamodules.errors import DatasetError, require_positive
from datamodules.notices import hold_notices, join_notices
from datamodules.preprocessing import Preprocessing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loading:
    """Batch size and workers of a loader.

    Args:
        batch_size: images a batch (B); the last one holds what is left.
        num_workers: processes that decode; None for one a core, 8 at most; 0 for none.
        cache: folder that keeps images as they are prepared, so that a later run with the same
            files and preprocessing need not decode them; None for none.

    Raises:
        ValueError: an argument is none of those described.
    """

    batch_size: int = 32
    num_workers: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        require_positive("batch_size", self.batch_size)
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {self.num_workers!r}")

    @property
    def workers(self) -> int:
        """The processes that decode, as a number."""
        if self.num_workers is not None:
            return self.num_workers
        # The cores this process may use can be fewer than the machine has.
        limited = hasattr(os, "sched_getaffinity")
        cores = len(os.sched_getaffinity(0)) if limited else os.cpu_count() or 1
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun says
        return min(8, max(1, cores // processes))


class ImageDataset(Dataset[dict[str, Any]]):
    """Items {"image": uint8 (3, H, W), "path": str}, in the order of `paths`.

    Beside what `item` gives they hold "notices": what is to be logged of the files, by its kind.

    Attributes:
        cache: keeps the items; None for none.
    """

    cache: ItemCache | None = None

    def __init__(self, paths: Sequence[Any], preprocessing: Preprocessing) -> None:
        self.paths = paths
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        if not self.cache:
            return self._noticed(path)
        files, others = self.depends_on(path)
        root = str(self.preprocessing.root.absolute())
        settings = type(self).__name__, self.preprocessing, root, others
        return self.cache.get(files, settings, partial(self._noticed, path))

    def _noticed(self, path: Any) -> dict[str, Any]:
        with hold_notices() as notices:
            item = self.item(path)
        return {**item, "notices": notices}

    def depends_on(self, path: Any) -> tuple[Sequence[Path], object]:
        """The files that the item of a path is made of, and what else but the preprocessing."""
        return [path], None

    def item(self, path: Any) -> dict[str, Any]:
        """The item of a path; data sets of more override this."""
        image = read_image(path, self.preprocessing.bits)
        return {"image": self.preprocessing.image(image, path), "path": str(path)}


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch; masks that have a window, of which sizes may differ, stay a list."""
    kept: dict[str, Any] = {"notices": join_notices(items)}
    if {"mask", "window"} <= items[0].keys():
        kept["mask"] = [item.pop("mask") for item in items]
    return {**default_collate(items), **kept}


Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


class Loader(DataLoader[dict[str, Any]]):
    """A loader whose workers end with its last batch or its first error, and never outlive it.

    What is to be logged of files is logged here, once of each kind, and taken out of the batches.

    As long as a forked worker lives, memory that was there before it is copied page by page when it
    is written to: factoring the covariances took up to four times as long. And a worker that is
    left over would keep the program from ending after an error.

    Args:
        dataset: gives items, or whole batches where `batch_size` is None.
        options: of a `DataLoader`; all, as Lightning makes the loader anew to put in a sampler.
    """

    def __init__(self, dataset: Dataset[dict[str, Any]], **options: Any) -> None:
        spawned = multiprocessing.get_start_method() == "spawn"
        defaults = {
            "worker_init_fn": _settle_ends,
            "pin_memory": torch.cuda.is_available(),
            # A spawned worker imports torch anew, so it is worth keeping for the next epoch; a
            # forked one starts at once and would only hold memory.
            "persistent_workers": options.get("num_workers", 0) > 0 and spawned,
        }
        super().__init__(dataset, **{**defaults, **options})

    def __iter__(self) -> Any:
        batches = super().__iter__()
        logged: set[str] = set()
        try:
            for number, batch in enumerate(batches, start=1):
                if number == len(self):
                    next(batches, None)
                for kind, text in batch.pop("notices", {}).items():
                    if kind not in logged:
                        _log.warning("%s", text)
                        logged.add(kind)
                yield batch
        finally:
            # An error's traceback holds the iterator, whose workers would wait for it to go.
            if self.num_workers and not self.persistent_workers:
                batches._shutdown_workers()  # type: ignore[attr-defined]


class ImageDataModule(LightningDataModule):
    """Base of the data modules: of several processes each loads images of its own, none twice.

    Args:
        preprocessing: of images and masks; None for the data set's default.
        loading: batch size and workers; None for `Loading`'s defaults.

    Attributes:
        counted: paths of training images, as in a batch, that are left out: they were fitted on
            before.
    """

    default_preprocessing: ClassVar[Preprocessing] = Preprocessing()

    def __init__(
        self, preprocessing: Preprocessing | None = None, loading: Loading | None = None
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing or self.default_preprocessing
        self.loading = loading or Loading()
        self.counted: Collection[str] = ()

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images in a batch."""
        return self.preprocessing.image_size

    def _shard(self, count: int) -> range:
        """Numbers of this process's images of `count`: even parts in a row, to one image.

        Raises:
            DatasetError: a process would have none.
        """
        rank, processes = 0, 1
        if self.trainer:
            rank, processes = self.trainer.global_rank, self.trainer.world_size
        if count < processes > 1:
            raise DatasetError(
                f"{count} images are too few for {processes} processes:"
                f" use {count} device{'s' * (count != 1)} at most"
            )
        return range(count * rank // processes, count * (rank + 1) // processes)

    def _loader(
        self, dataset: ImageDataset, collate: Collate = collate
    ) -> DataLoader[dict[str, Any]]:
        """Batches of this process's shard, in order: no statistic depends on it, paths sort."""
        dataset.cache = ItemCache(self.loading.cache) if self.loading.cache else None
        shard = self._shard(len(dataset))
        part = Subset(dataset, shard) if len(shard) < len(dataset) else dataset
        sizes = {"num_workers": self.loading.workers, "batch_size": self.loading.batch_size}
        return Loader(part, **sizes, collate_fn=collate)


def _settle_ends(_: int) -> None:
    """Let a worker go on where all processes of a job get the signal to end: the main one ends it.

    Only the first signal is ignored. The interpreter ends what is left over by another one.

    Errors of items travel to the main process. What is left to print is of a thread that hands over
    memory, and finds the main process gone.
    """

    def die_next_time(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    sys.excepthook = lambda *_: None
    signal.signal(signal.SIGTERM, die_next_time)
