"""Prepared images kept in a folder, so that later runs do not decode them again."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL
import torch
import torchvision

from datamodules.errors import DataError

Item = dict[str, Any]

DIGEST = 32
"""Bytes of the SHA-256 that a kept item begins with."""

DECODERS = PIL.__version__, torchvision.__version__
"""Of another version pixels may differ."""


class ItemCache:
    """Keeps items of data sets, a file each, under all that they depend on.

    Several processes and runs may share a folder. What has become invalid stays in it: a folder
    that is no longer wanted is deleted as a whole.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().absolute()

    def get(self, files: Sequence[Path], settings: object, make: Callable[[], Item]) -> Item:
        """The item, which is made and kept if it is not there, or is damaged.

        Args:
            files: it is made of; one of another size or time of change is another file.
            settings: whatever else it depends on, by its `repr`.
            make: makes it; what raises is not kept.

        Raises:
            DataError: the folder takes no files.
        """
        try:
            known = DECODERS, stamps(files), settings
        except OSError:
            return make()  # which says what is wrong
        name = hashlib.sha256(ascii(known).encode()).hexdigest()
        path = self.folder / name[:2] / f"{name}.pt"
        with suppress(Exception):  # it is missing, or damage of any kind
            found = path.read_bytes()
            if hashlib.sha256(found[DIGEST:]).digest() == found[:DIGEST]:
                return torch.load(BytesIO(found[DIGEST:]), weights_only=True)
        item = make()
        torch.save(item, buffer := BytesIO())
        kept = buffer.getvalue()
        beside = path.with_name(f"{name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(hashlib.sha256(kept).digest() + kept)
            beside.replace(path)  # whole at any moment, whoever else writes it
        except OSError as error:
            raise DataError(f"loading.cache={self.folder} takes no files: {error}") from error
        return item


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each file, by which it is known; may raise `OSError`."""
    return [(str(f.absolute()), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
