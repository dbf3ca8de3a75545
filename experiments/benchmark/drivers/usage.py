"""What a process takes of time and memory; of the standard library alone, for drivers too."""

import re
import resource
import sys
import time
from pathlib import Path


class JobUsage:
    """What a job takes from here on: a fit, and what follows it.

    Args:
        started: when the program was, in seconds since the epoch.
    """

    def __init__(self, started: float) -> None:
        self._start_s = time.time() - started
        self._bytes, self._wall, self._cpu = peak_memory(), time.perf_counter(), cpu_seconds()

    def fitted(self) -> None:
        """The fit ends here."""
        self._fit_s, self._fit_bytes = time.perf_counter() - self._wall, peak_memory()

    def report(self) -> dict[str, float]:
        """The job ends here: what `experiments.benchmark.job.main` says of times and memory."""
        job_s, peak = time.perf_counter() - self._wall, peak_memory()
        return {
            "start_s": self._start_s,
            "fit_s": self._fit_s,
            "test_s": job_s - self._fit_s,
            "job_s": job_s,
            "cpu_s": cpu_seconds() - self._cpu,
            "peak_bytes": peak,
            "added_bytes": peak - self._bytes,
            "fit_bytes": self._fit_bytes - self._bytes,
        }


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_memory() -> int:
    """Largest memory this process has held so far, in bytes, its children apart."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux's getrusage counts what a parent held when it started the process
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
