"""How memory is handed to PyTorch on a CPU: what a tensor's pages cost beside its arithmetic."""

import ctypes
import mmap
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 2**30
"""Bytes up to which a tensor's memory is kept for the next one instead of being given back."""

SHARED = 2**20
"""Bytes below which a tensor may as well be copied."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's <malloc.h>."""


def keep_freed_memory() -> bool:
    """Have glibc reuse the memory of freed tensors; return whether it does.

    By default it gives every large one back to the system, which has to clear it page by page when
    the next layer asks for as much: up to two fifths of the time of a fit. The peak grows by a
    tenth to a fifth. Settings of the environment (MALLOC_MMAP_THRESHOLD_ and the like) are left
    as they are.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, LARGEST) for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))


@contextmanager
def kept_from_forks(tensors: Iterable["Tensor"]) -> Iterator[None]:
    """Leave large tensors of the CPU out of the processes that the block forks, on Linux.

    Pages that are shared with a fork are copied one by one as they are written to: with decoding
    workers, adding to the statistics took up to two and a half times as long.
    """
    held = [t for t in tensors if t.device.type == "cpu" and t.nbytes >= SHARED]
    if sys.platform == "linux":
        for tensor in held:
            _advise(tensor, mmap.MADV_DONTFORK)
    try:
        yield
    finally:  # before anything else comes to lie there, which a fork may need
        if sys.platform == "linux":
            for tensor in held:
                _advise(tensor, mmap.MADV_DOFORK)


def _advise(tensor: "Tensor", advice: int) -> None:
    """For the whole pages of a tensor: at its ends there is what belongs to others."""
    first = -(-tensor.data_ptr() // mmap.PAGESIZE)
    behind = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE
    size = ctypes.c_size_t((behind - first) * mmap.PAGESIZE)
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first * mmap.PAGESIZE), size, advice)
