"""Errors that say what is wrong with the data or an argument, in one line each."""

from typing import Any, get_args


class DataError(ValueError):
    """Base of the errors about files; stays one line when it comes out of a `DataLoader` worker.

    There torch makes a new exception of the same type whose message is the worker's whole
    formatted traceback. Its last line, the original message, is what the user needs.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class ImageError(DataError):
    """A file that cannot be used as an image or as a mask."""


class DatasetError(DataError):
    """A folder or an archive that does not hold what a data set needs."""


def require_choice(name: str, value: object, options: Any) -> None:
    """Raise a `ValueError` unless an argument is one of the options of a `Literal`."""
    if value not in get_args(options):
        raise ValueError(f"{name} must be one of {get_args(options)}, got {value!r}")


def require_positive(name: str, value: object) -> None:
    """Raise a `ValueError` unless an argument is a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
