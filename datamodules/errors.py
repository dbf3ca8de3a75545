"""Errors that tell the user what is wrong with the data, in one line each."""


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
