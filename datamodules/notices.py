"""Notices: what is odd about a file that is read all the same, logged once of each kind."""

import logging
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

notices = logging.getLogger(__name__)


@contextmanager
def hold_notices() -> Iterator[dict[str, str]]:
    """Hold back what is logged of files in the block; yields the first message of each kind."""
    held: dict[str, str] = {}

    def hold(record: logging.LogRecord) -> bool:
        held.setdefault(record.msg, record.getMessage())
        return False

    notices.addFilter(hold)
    try:
        yield held
    finally:
        notices.removeFilter(hold)


def join_notices(items: list[dict[str, Any]]) -> dict[str, str]:
    """Take the notices out of items; the first of each kind."""
    return dict(ChainMap(*(item.pop("notices", {}) for item in items)))
