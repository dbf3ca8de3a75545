"""The demo data set: drawn by a program on first use, so that a first run needs no download."""

import difflib
import json
import shutil
import uuid
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from tqdm.auto import tqdm

from datamodules.demo_pictures import KINDS, draw
from datamodules.errors import DatasetError
from datamodules.loading import Loading
from datamodules.mvtec import MVTec
from datamodules.preprocessing import Preprocessing

VERSION = 2  # raise it when the pictures change, so that folders made before are made anew
STAMP = "demo.json"


class Demo(MVTec):
    """Two categories in MVTec AD's layout, made under `root` on first use.

    `flange` is an aligned object, a machined part on a bench mat; `fabric` is a texture, a woven
    cloth. Defects are of several kinds, of varying contrast and size; some are hard to see. An
    image depends on its own path and the seed only.

    Args:
        root: the folder to make them in, or that holds them.
        category: flange or fabric.
        preprocessing, loading: see `ImageDataModule`.
        n_train, n_test: images to fit on and to test on, a third of the latter good.
        size, seed: the images' side in pixels, and the random generator's seed; not negative.
        shots: `shots` and `shot_seed`, see `LabelledImages`.
    """

    known_categories = tuple(KINDS)
    category_groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self,
        root: str | Path = "data/demo",
        category: str = "flange",
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
        *,
        n_train: int = 120,
        n_test: int = 60,
        size: int = 512,
        seed: int = 0,
        **shots: Any,
    ) -> None:
        super().__init__(root, category, preprocessing, loading, **shots)
        self.arguments = {"n_train": n_train, "n_test": n_test, "size": size, "seed": seed}

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """All of them: what is not there yet is made."""
        return sorted(cls.known_categories)

    def prepare_data(self) -> None:
        """Draw the images all at once, or not at all; move those of other arguments aside.

        Raises:
            DatasetError: there is no such category, its folder holds anything but demo data, or
                it cannot be written.
        """
        kinds, folder = KINDS.get(str(self.category)), self.folder
        if not kinds:
            near = difflib.get_close_matches(str(self.category), KINDS, 1) or KINDS
            raise DatasetError(f"no demo category {self.category!r}; try {' or '.join(near)}")
        stamp = json.dumps({"version": VERSION, **self.arguments})
        if _stamp(folder) == stamp:
            return
        if not _stamp(folder) and any(folder.glob("*")):
            raise DatasetError(f"{folder}: holds something other than the demo data; set data.root")
        draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
        try:
            self._draw_all(draft, kinds)
            (draft / STAMP).write_text(stamp, encoding="utf-8")
            if _stamp(folder) not in ("", stamp):
                # Moved, not deleted: someone may have put work of their own beside the images.
                folder.rename(folder.with_name(f"{folder.name}.old-{uuid.uuid4().hex[:8]}"))
            draft.rename(folder)
        except OSError as error:
            # Another process may have made the same meanwhile.
            if _stamp(folder) != stamp:
                raise DatasetError(f"{folder}: cannot write the demo data: {error}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _draw_all(self, draft: Path, kinds: Sequence[str]) -> None:
        n_train, n_test, size, seed = self.arguments.values()
        good = max(n_test // 3, min(n_test - 1, 1))
        names = [f"train/good/{index:03d}" for index in range(n_train)]
        names += [f"test/good/{index:03d}" for index in range(good)]
        turns = (divmod(index, len(kinds)) for index in range(n_test - good))
        names += [f"test/{kinds[kind]}/{turn:03d}" for turn, kind in turns]

        def write(name: str) -> None:
            _, kind, stem = name.split("/")
            image, mask = draw(self.folder.name, name, kind, size, seed)
            path, mask_path = draft / f"{name}.png", draft / f"ground_truth/{kind}/{stem}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # Noise has no repeats to search for, which would double the time.
            Image.fromarray(image).save(path, compress_type=zlib.Z_HUFFMAN_ONLY)
            if kind != "good":
                mask_path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(mask_path)

        # Threads: NumPy, SciPy and Pillow release the interpreter's lock.
        with ThreadPoolExecutor() as pool:
            drawn = pool.map(write, names)
            list(tqdm(drawn, f"Drawing {self.category}", n_train + n_test, disable=None))


def _stamp(folder: Path) -> str:
    """What the folder was made of; empty if it does not hold the demo's data."""
    path = folder / STAMP
    return path.read_text(encoding="utf-8") if path.is_file() else ""
