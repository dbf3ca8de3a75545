"""Settings of glibc's allocator."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = "from experiments.allocation import keep_freed_memory as f; print(f())"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(
    ("setting", "expected"), [({}, "True"), ({"MALLOC_ARENA_MAX": "1"}, "False")]
)
def test_settings_of_the_environment_are_left_alone(setting: dict[str, str], expected: str) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**plain, **setting, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
