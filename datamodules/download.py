"""Fetch an archive, check it, unpack it: all or nothing."""

import logging
import lzma
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

import pooch
from tqdm import tqdm

from datamodules.errors import DatasetError

_CHUNK = 1 << 20  # bytes


def download_archive(url: str, sha256: str, destination: Path) -> None:
    """Fetch a .tar.xz or .tar.gz and put its top-level entries into the folder `destination`.

    All work is done in a temporary folder inside `destination` (so on its disk), and each entry is
    then renamed into place: interrupted at any point, nothing half-made is left. Entries that
    exist already are kept as they are.

    Raises:
        DatasetError: the download fails, its SHA-256 (hexadecimal) differs, or a member is broken
            or would be written outside of `destination`.
    """
    destination.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel(logging.WARNING)  # or it names the temporary file
    with tempfile.TemporaryDirectory(prefix=".download-", dir=destination) as work:
        try:
            downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=_CHUNK)
            archive = Path(pooch.retrieve(url, sha256, "archive", work, downloader=downloader))
        except OSError as error:
            raise DatasetError(
                f"{url}: download failed ({error});"
                f" fetch the archive by other means and unpack it into {destination}"
            ) from error
        except ValueError as error:  # the digest differs
            raise DatasetError(f"{url}: {error}") from error
        unpacked = Path(work, "unpacked")
        try:
            _unpack(archive, unpacked)
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise DatasetError(f"{url}: cannot be unpacked ({error})") from error
        for entry in sorted(unpacked.glob("*")):
            target = destination / entry.name
            if not target.exists():
                entry.rename(target)


def _unpack(archive: Path, folder: Path) -> None:
    total = archive.stat().st_size
    with (
        archive.open("rb") as file,
        tqdm.wrapattr(file, "read", total, desc="unpack", unit="B", unit_scale=True) as counted,
        # As a stream, it is read once and in order, so the progress is true.
        tarfile.open(fileobj=counted, mode="r|*") as tar,
    ):
        for member in tar:  # by hand, as the first releases of Python 3.11 have no safe extractall
            target = folder / member.name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise tarfile.TarError(f"{member.name!r} would lie outside of the folder")
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as out:
                    shutil.copyfileobj(content, out)
            elif not member.isdir():
                raise tarfile.TarError(f"{member.name!r} is neither a file nor a folder")
