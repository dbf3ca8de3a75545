"""Write the demo data set: two categories in MVTec AD's folder layout, drawn by a program."""

import difflib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage
from tqdm.auto import tqdm

from datamodules.demo import fabric, flange, optics
from datamodules.errors import DatasetError

VERSION = 1  # raise it when the pictures change, so that folders made before are made anew
STAMP = "demo.json"
NOTICEABLE = 7.0  # grey values of 255 by which a defect must change a pixel to be in its mask


class Scene(NamedTuple):
    """A category: what draws it, and the defects it can have."""

    render: Callable[[optics.Rng, int, str | None, optics.Rng], optics.Plane]
    kinds: tuple[str, ...]


SCENES = {
    "fabric": Scene(fabric.render, fabric.KINDS),
    "flange": Scene(flange.render, flange.KINDS),
}


class Shot(NamedTuple):
    """One image to make; `name` (no suffix) is its path and, with the seed, all its randomness."""

    category: str
    name: PurePosixPath
    kind: str | None

    @property
    def image(self) -> PurePosixPath:
        return self.name.with_suffix(".png")

    @property
    def mask(self) -> PurePosixPath:
        return PurePosixPath(
            self.category, "ground_truth", *self.name.parts[2:-1], f"{self.name.name}_mask.png"
        )


def make_demo(
    root: str | Path,
    category: str,
    n_train: int = 120,
    n_test: int = 60,
    size: int = 512,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Make a category of the demo data, unless it is there already; returns its folder.

    It gets `n_train` good training images and `n_test` test images, a third of them good and the
    rest spread evenly over the defect kinds, `size` pixels a side. An image depends on its own
    path and the seed only, so neither order nor `workers` (threads, by default one a processor)
    changes it. All is written beside the folder and renamed at the end: an interrupted call
    leaves nothing. Data made with other arguments or by another version is moved aside.

    Raises:
        ValueError: counts or a size that give no data set.
        DatasetError: there is no such category, its folder holds anything that this function did
            not make, or it cannot be written.
    """
    if category not in SCENES:
        near = difflib.get_close_matches(category, SCENES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise DatasetError(
            f"the demo has no category {category!r}{hint}; it has {', '.join(SCENES)}"
        )
    if min(n_train, n_test) < 1 or size < 32:
        raise ValueError(
            "the demo data need n_train and n_test of at least 1 and a size of at least 32, "
            f"not n_train={n_train}, n_test={n_test}, size={size}"
        )
    folder = Path(root) / category
    stamp = {
        "version": VERSION, "n_train": n_train, "n_test": n_test, "size": size, "seed": seed,
    }  # fmt: skip
    if _is_made(folder, stamp):
        return folder
    draft = folder.parent / f".{category}-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir(parents=True)
        _write_all(draft, list(plan(category, n_train, n_test)), size, seed, workers, progress)
        (draft / category / STAMP).write_text(json.dumps(stamp) + "\n", encoding="utf-8")
        _put_in_place(draft / category, folder, stamp)
    except OSError as error:
        raise DatasetError(f"{folder}: cannot write the demo data there: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def plan(category: str, n_train: int, n_test: int) -> Iterator[Shot]:
    """The images of a category; at least one test image is good, if there is more than one."""
    kinds = SCENES[category].kinds
    good = max(n_test // 3, min(n_test - 1, 1))
    for index in range(n_train):
        yield Shot(category, PurePosixPath(category, "train", "good", f"{index:03d}"), None)
    for index in range(good):
        yield Shot(category, PurePosixPath(category, "test", "good", f"{index:03d}"), None)
    for index in range(n_test - good):
        turn, kind = divmod(index, len(kinds))
        name = PurePosixPath(category, "test", kinds[kind], f"{turn:03d}")
        yield Shot(category, name, kinds[kind])


def draw(
    shot: Shot, size: int, seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
    """The image (S, S, 3) and, for a defect, its mask (S, S) of 0 and 255."""
    values = _photograph(shot, size, seed, shot.kind)
    *_, noise = _generators(shot, seed)
    image = optics.digitise(values, noise)
    if shot.kind is None:
        return image, None
    twin = _photograph(shot, size, seed, None)
    return image, _changed(values, twin)


def draw_twin(shot: Shot, size: int, seed: int) -> npt.NDArray[np.uint8]:
    """The same image, down to the sensor's noise, as it would be without its defect."""
    *_, noise = _generators(shot, seed)
    return optics.digitise(_photograph(shot, size, seed, None), noise)


def _generators(shot: Shot, seed: int) -> list[optics.Rng]:
    """Fresh generators for the scene, the defect, the camera and the sensor's noise."""
    root = np.random.SeedSequence([seed, *shot.name.as_posix().encode()])
    return [np.random.default_rng(child) for child in root.spawn(4)]


def _photograph(shot: Shot, size: int, seed: int, kind: str | None) -> optics.Plane:
    scene, fault, camera, _ = _generators(shot, seed)
    return optics.develop(SCENES[shot.category].render(scene, size, kind, fault), camera)


def _changed(image: optics.Plane, twin: optics.Plane) -> npt.NDArray[np.uint8]:
    """Where a defect changed the noise-free image, as one would outline it: closed, no specks."""
    size = image.shape[0]
    difference = np.abs(image - twin).max(axis=2)
    # The faintest defects still get an outline: half of the most that they change.
    changed = difference > min(NOTICEABLE, 0.5 * float(difference.max()))
    reach = max(1, round(size / 170))
    disc = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) <= reach
    padded = np.pad(changed, 2 * reach)
    closed = ndimage.binary_fill_holes(ndimage.binary_closing(padded, disc))
    closed = closed[2 * reach : -2 * reach, 2 * reach : -2 * reach]
    regions, count = ndimage.label(closed, np.ones((3, 3)))
    areas = ndimage.sum_labels(closed, regions, np.arange(count + 1))
    keep = areas >= min(areas.max(), 0.05 * areas.max() + 1)
    keep[0] = False
    return np.where(keep[regions], np.uint8(255), np.uint8(0))


def _write_all(
    folder: Path, shots: list[Shot], size: int, seed: int, workers: int | None, progress: bool
) -> None:
    files = [shot.image for shot in shots] + [shot.mask for shot in shots if shot.kind]
    for place in {(folder / file).parent for file in files}:
        place.mkdir(parents=True, exist_ok=True)
    # Threads, not processes: nearly all the time is spent in NumPy, SciPy and Pillow with the
    # interpreter's lock released, and threads start at once, also from a notebook.
    pool = ThreadPoolExecutor(workers or _processors())
    try:
        futures: list[Future[None]] = [
            pool.submit(_write, folder, shot, size, seed) for shot in shots
        ]
        bar = tqdm(
            as_completed(futures),
            "Making the demo images",
            len(futures),
            unit="img",
            disable=None if progress else True,
            dynamic_ncols=True,
        )
        for future in bar:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write(folder: Path, shot: Shot, size: int, seed: int) -> None:
    image, mask = draw(shot, size, seed)
    # Noise has no repeats to search for, which would double the time.
    Image.fromarray(image).save(folder / shot.image, compress_type=zlib.Z_HUFFMAN_ONLY)
    if mask is not None:
        Image.fromarray(mask).save(folder / shot.mask)


def _is_made(folder: Path, stamp: dict[str, int]) -> bool:
    """Whether `folder` holds exactly this data; refuses a folder that holds anything else's."""
    if (folder / STAMP).is_file():
        return _read_stamp(folder) == stamp
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(
            f"{folder}: holds something other than the demo data; set data.root to another folder"
        )
    return False


def _read_stamp(folder: Path) -> object:
    try:
        return json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _put_in_place(draft: Path, folder: Path, stamp: dict[str, int]) -> None:
    if (folder / STAMP).is_file() and _read_stamp(folder) != stamp:
        # Moved, not deleted: someone may have put work of their own beside the images.
        folder.rename(folder.parent / f"{folder.name}.old-{uuid.uuid4().hex[:8]}")
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        draft.rename(folder)
    except OSError:
        # Another process has just made the same; else the error is real.
        if _read_stamp(folder) != stamp:
            raise
