"""Files that arrive while one waits for them."""

import logging
from collections.abc import Callable
from pathlib import Path
from time import sleep

from datamodules import DataError

log = logging.getLogger(__name__)

Stamp = tuple[int, int]
"""Size and time of the last change: one differs where a file has changed."""


class Arrivals:
    """Lists the files that have arrived: once each, and again whenever they have changed.

    Args:
        find: lists the files there are.
    """

    def __init__(self, find: Callable[[], list[Path]]) -> None:
        self._find = find
        self._before: dict[Path, Stamp] = {}
        self._taken: dict[Path, Stamp] = {}
        self._trouble = ""

    def all(self) -> list[Path]:
        """The files there are now, even if they are still growing."""
        self._before = _stamps(self._find())
        self._taken = dict(self._before)
        return list(self._taken)

    def look(self) -> list[Path]:
        """The files that are new or have changed, and stayed as they are since the look before."""
        try:
            now = _stamps(self._find())
        except (OSError, DataError) as error:  # a share that is lost may come back
            if str(error) != self._trouble:
                log.warning("%s", error)
            self._trouble = str(error)
            return []
        settled = dict(now.items() & self._before.items())
        new = [path for path in now if path in settled and self._taken.get(path) != settled[path]]
        self._before, self._trouble = now, ""
        self._taken.update((path, settled[path]) for path in new)
        return new


def watch(arrivals: Arrivals, take: Callable[[list[Path]], None], interval: float) -> None:
    """Give the files that arrive to `take`, until Ctrl-C; look again after `interval` seconds."""
    try:
        while True:
            if paths := arrivals.look():
                take(paths)
            sleep(interval)
    except KeyboardInterrupt:
        log.info("Stopped by Ctrl-C.")


def _stamps(paths: list[Path]) -> dict[Path, Stamp]:
    stamps = {}
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:  # gone since it was listed
            continue
        stamps[path] = (stat.st_size, stat.st_mtime_ns)
    return stamps
