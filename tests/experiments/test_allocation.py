import faulthandler
import os
import platform
import subprocess
import sys

import pytest
import torch

from experiments.running.allocation import SHARED, kept_from_forks

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def in_fork(value: torch.Tensor) -> int:
    """Exit status of a fork that reads a tensor: 0, or minus the signal that ends it."""
    if not (child := os.fork()):
        faulthandler.disable()  # it would tell of what is expected
        value.sum()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@linux
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_large_tensors_are_left_out_of_forks_of_the_block() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a fork has no others
    large, small = torch.ones(SHARED), torch.ones(10)
    beside = torch.ones(SHARED)
    try:
        with kept_from_forks([large, small]):
            assert in_fork(large) == -11
            assert in_fork(small) == in_fork(beside) == 0
            assert large.sum() == SHARED
        assert in_fork(large) == 0
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_freed_memory_is_kept_unless_the_environment_says_how(
    setting: dict[str, str], kept: bool
) -> None:
    program = "from experiments.running.allocation import keep_freed_memory as f; print(f())"
    known = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    told = subprocess.run(
        [sys.executable, "-c", program], env={**known, **setting}, capture_output=True, text=True
    )
    assert told.stdout.split() == [str(kept)], told.stderr
