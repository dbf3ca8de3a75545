"""Fetch an archive, check it, unpack it: all or nothing."""

import hashlib
import http.client
import lzma
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path

from tqdm import tqdm

from datamodules.errors import DatasetError

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without an answer


def download_archive(url: str, sha256: str, destination: Path) -> None:
    """Fetch a .tar.xz or .tar.gz and put its top-level entries into the folder `destination`.

    All work is done in a temporary folder inside `destination` (so on its disk), and each entry is
    then renamed into place: interrupted at any point, nothing half-made is left. Entries that
    exist already are kept as they are.

    Args:
        url: of the archive.
        sha256: expected digest of the archive, hexadecimal.
        destination: made if missing.

    Raises:
        DatasetError: the download fails, its digest differs, or a member is broken or would be
            written outside of `destination`.
    """
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=destination) as work:
        archive = Path(work, "archive.part")
        try:
            digest = _fetch(url, archive)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DatasetError(
                f"{url}: download failed ({error});"
                f" fetch the archive by other means and unpack it into {destination}"
            ) from error
        if digest != sha256.lower():
            raise DatasetError(
                f"{url}: SHA-256 is {digest}, expected {sha256}; the file was deleted,"
                " as it is damaged or not the expected one"
            )
        unpacked = Path(work, "unpacked")
        try:
            _unpack(archive, unpacked)
        except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise DatasetError(f"{url}: cannot be unpacked ({error})") from error
        for entry in sorted(unpacked.glob("*")):
            target = destination / entry.name
            if not target.exists():
                entry.rename(target)


def _fetch(url: str, file: Path) -> str:
    """Stream `url` to `file`; returns the SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, file.open("wb") as out:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        with tqdm(total=total, desc="download", unit="B", unit_scale=True) as progress:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                progress.update(len(chunk))
        # http.client reports a connection that breaks off as if the file ended there.
        if total is not None and out.tell() < total:
            raise OSError(f"connection lost after {out.tell()} of {total} bytes")
    return digest.hexdigest()


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
