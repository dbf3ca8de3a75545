"""What glibc and Python do with the memory of a run."""

import ctypes
import gc
import os
import platform

LARGEST = 2**30
"""Bytes up to which a tensor's memory is kept for the next one instead of being given back."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's <malloc.h>."""


def keep_freed_memory() -> bool:
    """Have glibc reuse the memory of freed tensors; return whether it does.

    By default it gives every large one back to the system, which has to clear it page by page when
    the next layer asks for as much: the backbone of a fit takes 3.5 s instead of 4.9 s (bottle, two
    cores), for a tenth more memory. Settings of the environment (MALLOC_MMAP_THRESHOLD_ and the
    like) are left as they are.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, LARGEST) for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD))


def freeze_imports() -> None:
    """Leave what there is by now, mostly imported modules, out of garbage collections.

    One that visits it takes half a second, and writes to every page that forked workers share.
    Done once a command, which undoes it at its end; later it would keep what was to be collected.
    """
    if not gc.get_freeze_count():
        gc.freeze()
