"""Files that other programs open: their values, their place, and writing them whole."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pandas as pd

# Strings of pyarrow, which pandas takes where it is installed, hold no file name but Unicode.
pd.set_option("mode.string_storage", "python")

Cell = TypeVar("Cell")

NAME_BYTES = 200
"""Of the name of a file; file systems take 255, suffix included."""


def cell(value: Cell) -> Cell | str:
    """A value for a csv file; text that a spreadsheet would take for a formula is quoted.

    >>> cell("=1+1.png"), cell("bottle"), cell(-0.5)
    ("'=1+1.png", 'bottle', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, each value as of `cell`."""
    write_text(path, table.map(cell).to_csv(index=False))


def short(name: str) -> str:
    """A name with room for a suffix and more; of a long one a hash stands for what is cut off.

    >>> short("bottle"), short("x" * 240)[195:]
    ('bottle', 'xxxxx_718df670')
    """
    encoded = name.encode(errors="surrogateescape")
    if len(encoded) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[:NAME_BYTES].decode(errors='ignore')}_{digest}"


def model_file(out: str) -> Path:
    """The file that `out` means: itself, or `model.ckpt` in a folder."""
    path = Path(out).expanduser()
    return path if path.suffix == ".ckpt" else path / "model.ckpt"


def require_writable(path: Path) -> None:
    """Raise an `OSError` where no file can be written; nothing is made, not even its folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, so no file can be written there")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {there} is a file, no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: {there} takes no files")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; names of files in it may be what no encoding has."""
    with replacing(path) as whole:
        whole.write_text(text, encoding="utf-8", errors="surrogateescape")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path of what is written into the errors of writing it, of which most name none."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file that takes the place of `path` once it is whole and the block has passed.

    What is written beside it in its own folder, under any name, is moved along with it. After an
    error, all is as it was.

    Yields:
        A path of the same name to write to.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder) / path.name
            written = sorted(Path(folder).iterdir())
            for file in written:
                with file.open("rb") as whole:
                    os.fsync(whole.fileno())
            for file in written:
                file.replace(path.with_name(file.name))
