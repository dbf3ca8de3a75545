"""Files of folders and patterns that are images or videos, what is left out, and copies."""

import glob
import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from datamodules.errors import DatasetError

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jfif", ".jpe", ".apng"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
"""Of all that is decoded, see `datamodules.decoding.FORMATS`."""

VIDEO_SUFFIXES = (".avi", ".mp4", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".wmv")

SYSTEM_NAMES = (
    *("Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information"),
    *("__MACOSX", "@eaDir", "#recycle", "lost+found"),
)
"""What Windows, macOS, NAS and Linux put into folders of pictures, unseen."""

UNSEEN = "hidden or the system's"
OF_A_RUN = "of a run"
WRITTEN = ("pictures", "gallery", "courses", "videos", "maps")
"""Folders of pictures in the folder of a run."""

TRACKED = ("mlruns", "wandb")
"""Folders of trackers, which have such pictures too."""

Inputs = str | Path | Sequence[str | Path]
"""Files, folders of files, or glob patterns."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """Outcome of `find_inputs`.

    Attributes:
        files: each with the folder that its input names, before any wildcard.
        left_out: what is passed over, files or whole folders, with the reason.
        unread: folders and links that cannot be read, with the reason.
    """

    files: dict[Path, Path] = field(default_factory=dict)
    left_out: dict[Path, str] = field(default_factory=dict)
    unread: dict[Path, str] = field(default_factory=dict)

    def log(self, where: str) -> None:
        """Log in a line each what was left out and what cannot be read, if there is any."""
        for missing, level in ((self.left_out, logging.INFO), (self.unread, logging.WARNING)):
            if missing:
                _log.log(level, "%s: left out are %s", where, summary(missing.items()))


def find_inputs(inputs: Inputs, videos: bool = False, may_be_empty: bool = False) -> Found:
    """Expand files, folders (with all below) and globs (`**` too) to image files.

    The inputs keep their order, the files of a folder or a glob are sorted, and a file found twice
    counts once. A file given by its own name is taken whatever its suffix. Links to folders are
    followed, to each folder once. What is hidden, the system's or of a run is left out.

    Args:
        inputs: what to expand.
        videos: whether video files are found as well.
        may_be_empty: whether a folder or a glob may give no file.

    Raises:
        DatasetError: an input gives no file or cannot be read, or there is no input.
    """
    found = Found()
    for item in _items(inputs):
        base = named_folder(item)
        own = Found({item: base}) if item.is_file() else _below(base, item, videos)
        if not own.files and not (may_be_empty and (item.is_dir() or glob.has_magic(str(item)))):
            kinds = "images or videos" if videos else "images"
            suffixes = IMAGE_SUFFIXES + (VIDEO_SUFFIXES if videos else ())
            missing = summary([*own.unread.items(), *own.left_out.items()])
            raise DatasetError(
                f"{item}: no {kinds} found; expected a file, a folder of {kinds}"
                f" or a quoted pattern ({', '.join(suffixes)})"
                f"{f'; left out are {missing}' * bool(missing)}"
            )
        found.files.update(own.files)
        found.left_out.update(own.left_out)
        found.unread.update(own.unread)
    return found


def find_images(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files of a folder, sorted; none if there is no such folder; logs the others."""
    if not folder.is_dir():
        return []
    found = _below(folder, folder, recursive=recursive)
    found.log(str(folder))
    return list(found.files)


def find_folders(parent: Path) -> list[Path]:
    """The folders in a folder, sorted, but for those that are hidden or the system's."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not _is_unseen(path.name))


def is_image(path: Path) -> bool:
    """Whether `path` is a file with an image's suffix, in any case, and not hidden."""
    return _has_suffix(path, IMAGE_SUFFIXES) and not _is_unseen(path.name) and path.is_file()


def is_video(path: Path) -> bool:
    """Whether `path` is a file with a video's suffix, in any case, and not hidden."""
    return _has_suffix(path, VIDEO_SUFFIXES) and not _is_unseen(path.name) and path.is_file()


def named_folder(item: str | Path) -> Path:
    """The folder that an input of `find_inputs` names: the last one before any wildcard."""
    path = Path(item).expanduser()
    if path.is_file():
        return path.parent
    while glob.has_magic(str(path)) and not path.is_dir():
        path = path.parent
    return path


def count_copies(paths: Sequence[Path]) -> int:
    """Files of which another has the same bytes, less one of each kind."""

    def head(path: Path) -> bytes:
        with path.open("rb") as file:
            return file.read(1 << 16)

    groups = [list(paths)]
    # Few files are of one size, and of raw pixels, which are, few begin alike.
    for key in (os.path.getsize, head, lambda path: hashlib.sha256(path.read_bytes()).digest()):
        alike: dict[tuple[int, Any], list[Path]] = defaultdict(list)
        for i, group in enumerate(groups):
            for path in group:
                alike[i, key(path)].append(path)
        groups = [group for group in alike.values() if len(group) > 1]
    return sum(len(group) - 1 for group in groups)


def summary(missing: Iterable[tuple[str | Path, str]]) -> str:
    """The number of paths for each reason, with examples, one a suffix."""
    by_reason = defaultdict(list)
    for path, reason in missing:
        by_reason[reason].append(Path(path))
    parts = []
    for reason, paths in by_reason.items():
        examples = list({path.suffix: "/".join(path.parts[-2:]) for path in paths}.values())
        more = ", ..." if len(paths) > len(examples[:4]) else ""
        parts.append(f"{len(paths)} {reason} ({', '.join(examples[:4])}{more})")
    return ", ".join(parts)


def _below(base: Path, item: Path, videos: bool = False, recursive: bool = True) -> Found:
    """What is found in a folder; `item` is itself, or a pattern that begins with it."""
    suffixes = IMAGE_SUFFIXES + (VIDEO_SUFFIXES if videos else ())
    neither = "neither image nor video by its name" if videos else "no image by its name"
    found = Found()
    for path, reason in _walk(base, item.relative_to(base).parts, found.unread, recursive):
        if not reason and not path.is_file():
            found.unread[path] = "no file, or a link to none"
        elif reason or not _has_suffix(path, suffixes):
            found.left_out[path] = reason or neither
        else:
            found.files[path] = base
    return Found(*(dict(sorted(part.items())) for part in vars(found).values()))


def _walk(
    root: Path, pattern: Sequence[str], unread: dict[Path, str], recursive: bool
) -> Iterator[tuple[Path, str]]:
    """All below a folder that fits a pattern, with a reason where it is not to be taken.

    Folders that cannot be read are added to `unread`; of `root` itself this raises.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = [root] * root.is_dir(), list[Path]()  # links last: files keep their own names
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise DatasetError(f"{root}: {error.strerror}") from None
            unread[folder] = str(error.strerror)
            continue
        if (status.st_dev, status.st_ino) in seen:
            yield folder, "reached twice"
            continue
        seen.add((status.st_dev, status.st_ino))
        is_run = _is_of_a_run({entry.name for entry in entries})
        if is_run and folder != root:
            yield folder, OF_A_RUN
            continue
        for entry in entries:
            path = Path(folder, entry.name)
            is_folder = os.path.isdir(entry) if entry.is_symlink() else entry.is_dir()
            if not _fits(path.relative_to(root).parts, pattern, part=is_folder):
                continue
            if _is_unseen(entry.name):
                if is_folder or _has_suffix(path, IMAGE_SUFFIXES + VIDEO_SUFFIXES):
                    yield path, UNSEEN
            elif not is_folder:
                yield path, ""
            elif entry.name in TRACKED or (is_run and entry.name in WRITTEN):
                yield path, OF_A_RUN
            elif not recursive:
                yield path, "in a folder of its own"
            else:
                (links if entry.is_symlink() else folders).append(path)


def _fits(parts: Sequence[str], pattern: Sequence[str], part: bool) -> bool:
    """Whether a pattern gives a path or a folder above it; or, with `part`, something below it."""
    if not pattern:
        return True
    if not parts:
        return part or set(pattern) == {"**"}
    if pattern[0] == "**":
        return _fits(parts, pattern[1:], part) or _fits(parts[1:], pattern, part)
    return fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:], part)


def _has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes


def _is_unseen(name: str) -> bool:
    """Of hidden files macOS puts a `._000.png`, no image, beside `000.png` on foreign disks."""
    return name.startswith(".") or name in SYSTEM_NAMES


def _is_of_a_run(names: set[str]) -> bool:
    """Whether what a folder holds says that a run, or a sweep, has written it."""
    return bool(names & {".hydra", "multirun.yaml"}) or {"metrics.json", "config.yaml"} <= names


def _items(inputs: Inputs) -> list[Path]:
    items = [inputs] if isinstance(inputs, str | Path) else inputs
    if not items:
        raise DatasetError("no input: give files, folders or quoted patterns")
    return [Path(item).expanduser() for item in items]
