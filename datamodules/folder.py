"""Any images: a folder of normal ones and, to test on, folders of others."""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from datamodules.errors import DatasetError
from datamodules.finding import Found, Inputs, find_images, find_inputs, named_folder
from datamodules.labelled import ALL, LabelledImages
from datamodules.loading import Loading
from datamodules.preprocessing import Preprocessing
from datamodules.samples import GOOD, Sample

HELD_OUT = 0.2
"""Share of the normal images to test on, where there are abnormal ones to distinguish them from."""

MASK_ENDINGS = ("", "_mask", "-mask", "_gt", "_label")
"""What the name of a mask adds to that of its image, file suffixes left aside."""

NAMELESS = ("good", "normal", "ok", "train")
"""Folders that say of their images that they are normal, and not what they show."""

_log = logging.getLogger(__name__)


class Folder(LabelledImages):
    """Images wherever they are.

    ```
    <normal>/**                        normal images
    <abnormal>/<defect>/**             to test on; those right in <abnormal> are of that defect
    <masks>/<defect>/<stem>_mask.png   or without the folder, or without "_mask"
    ```

    `normal`, `abnormal` and `normal_test` each are a folder, a quoted pattern, a file or a list of
    these. An abnormal image without mask counts for the metrics of images alone.

    Args:
        normal: to fit on.
        abnormal: to test on.
        masks: folder of the masks of abnormal images; see `MASK_ENDINGS`.
        normal_test: normal images to test on; None for those held out.
        held_out: share of `normal` that is tested on and not fitted on, one image at least unless
            it is 0. None for `HELD_OUT` if there are abnormal images and no `normal_test`, else 0.
        split_seed: chooses them, by their names: the same ones while the folder stays as it is,
            wherever it is.
        name: of the category; None for the name of the folder of normal images, or where that is
            one of `NAMELESS` of the nearest folder above that is not.
        preprocessing, loading: see `ImageDataModule`; all of the image by default.
        shots, shot_seed: see `LabelledImages`; of those that are not held out.

    Raises:
        ValueError: `held_out` is no share, or given beside `normal_test`; `masks` without
            `abnormal`.
    """

    default_preprocessing = Preprocessing(crop=None)
    path_keys = ("normal", "abnormal", "masks", "normal_test")

    def __init__(
        self,
        normal: Inputs | None = None,
        abnormal: Inputs | None = None,
        masks: str | Path | None = None,
        normal_test: Inputs | None = None,
        held_out: float | None = None,
        split_seed: int = 0,
        name: str | None = None,
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
        shots: int | str = ALL,
        shot_seed: int = 0,
    ) -> None:
        super().__init__(preprocessing, loading, shots, shot_seed)
        if held_out is not None and not 0 <= held_out < 1:
            raise ValueError(
                "data.held_out is the share of data.normal that is not fitted on: at least 0 and"
                f" below 1, got {held_out}"
            )
        if held_out and normal_test:
            raise ValueError(
                "data.held_out and data.normal_test are both given: set one of them to null"
            )
        if masks and not abnormal:
            raise ValueError("data.masks needs data.abnormal, the images that they are of")
        self.inputs = {"normal": normal, "abnormal": abnormal, "normal_test": normal_test}
        self.masks = Path(masks).expanduser() if masks else None
        if held_out is None:
            held_out = HELD_OUT if abnormal and not normal_test else 0
        self.held_out = held_out
        self.split_seed = split_seed
        self.folder = normal_folder(normal)
        self.name = name or self.folder.name
        self._found: dict[str, dict[Path, Path]] = {}

    @cached_property
    def train_paths(self) -> list[Path]:
        return sorted(self._images("normal").keys() - set(self._held_out))

    @cached_property
    def test_samples(self) -> list[Sample]:
        normal = self._images("normal_test") or self._held_out
        samples = [Sample(path, GOOD, ()) for path in normal]
        images = self._images("abnormal")
        defects = {path: _defect(path, base) for path, base in images.items()}
        masks = self._match(images, defects)
        samples += [Sample(path, defect, masks.get(path, ())) for path, defect in defects.items()]
        return sorted(samples, key=lambda sample: (sample.defect, sample.path))

    def setup(self, stage: str | None = None) -> None:
        """List and check all files now, so that a run does not fail when it is half done.

        For the stage "test" the images that were fitted on may be gone.

        Raises:
            DatasetError: an input gives no image, two give the same one, it is not clear which
                mask is meant, a test image or a mask has no header, or they differ in size.
        """
        given = ["abnormal", "normal_test"]
        if stage != "test" or self.held_out:
            given.append("normal")
            if not self.inputs["normal"]:
                raise DatasetError(
                    "data.normal is not given: name the folder of normal images, data.normal=good/"
                )
        _require_once({**{key: self._images(key) for key in given}, "masks": self._masks})
        _ = self._checked_samples
        if "normal" in given:
            _ = self._checked_paths if stage != "test" else self.train_paths

    @cached_property
    def _held_out(self) -> list[Path]:
        if not self.held_out:
            return []
        paths = {path: path.absolute() for path in self._images("normal")}
        home = os.path.commonpath([path.parent for path in paths.values()])

        def key(path: Path) -> bytes:
            # Hashes, not a shuffle: a file more changes the others' fate as little as can be.
            name = paths[path].relative_to(home).as_posix()
            text = f"{self.split_seed}:{name}".encode(errors="surrogateescape")
            return hashlib.sha256(text).digest()

        wanted = max(round(self.held_out * len(paths)), 1)
        return sorted(paths, key=key)[: min(wanted, len(paths) - 1)]

    @cached_property
    def _masks(self) -> list[Path]:
        if not self.masks:
            return []
        found = find_images(self.masks, recursive=True)
        if not found:
            problem = "no images found" if self.masks.is_dir() else "no such folder"
            raise DatasetError(f"data.masks: {self.masks}: {problem}")
        return found

    def _images(self, key: str) -> dict[Path, Path]:
        """The images that an argument gives, each with the folder it was found in."""
        if key not in self._found:
            given = self.inputs[key]
            try:
                found = find_inputs(given) if given else Found()
            except DatasetError as error:
                raise DatasetError(f"data.{key}: {error}") from None
            found.log(f"data.{key}")
            self._found[key] = found.files
        return self._found[key]

    def _match(
        self, images: Mapping[Path, Path], defects: Mapping[Path, str]
    ) -> dict[Path, tuple[Path, ...]]:
        """The mask of each image that has one."""
        if not self.masks:
            return {}
        named: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        for mask in self._masks:
            for ending in MASK_ENDINGS:
                if mask.stem.endswith(ending):
                    named[mask.parent, mask.stem.removesuffix(ending)].append(mask)
        owners: dict[Path, Path] = {}
        for image, base in images.items():
            inner = image.relative_to(base).parent
            folders = dict.fromkeys(self.masks / place for place in (inner, defects[image], ""))
            masks = [mask for folder in folders for mask in named.get((folder, image.stem), ())]
            if len(masks) > 1:
                raise DatasetError(
                    f"{image}: its mask may be {' or '.join(map(str, masks))}: keep one of them"
                )
            for mask in masks:
                if mask in owners:
                    remedy = f"put masks into folders named as the defects, {self.masks}/<defect>"
                    if owners[mask].parent == image.parent:  # 000.png and 000.jpg
                        remedy = "rename one of them"
                    raise DatasetError(
                        f"{mask}: may be the mask of {owners[mask]} or of {image}: {remedy}"
                    )
                owners[mask] = image
        if not owners:
            image, defect = next(iter(defects.items()))
            raise DatasetError(
                f"data.masks: no mask in {self.masks} is named as an image of data.abnormal;"
                f" expected is for example {self.masks / defect / image.stem}_mask.png"
            )
        if len(owners) < len(images):
            _log.info(
                "%d of %d abnormal images have a mask; the others count for the metrics of images"
                " alone",
                *(len(owners), len(images)),
            )
        return {image: (mask,) for mask, image in owners.items()}


def normal_folder(normal: Inputs | None) -> Path:
    """The folder after which a `Folder` is called: that of the (first) normal images, or above."""
    items = [normal] if isinstance(normal, str | Path) else normal
    folder = Path(os.path.abspath(named_folder(items[0]) if items else "."))
    named = (f for f in (folder, *folder.parents) if f.name.lower() not in ("", *NAMELESS))
    return next(named, folder)


def find_defects(abnormal: Inputs) -> dict[Path, str]:
    """Abnormal images, as `find_inputs` finds them, each with its defect.

    That is the folder in which it lies in its input, or else the name of the input's own folder.

    Raises:
        DatasetError: an input gives no image, or has a folder of normal ones.
    """
    found = find_inputs(abnormal)
    found.log("abnormal")
    return {path: _defect(path, base) for path, base in found.files.items()}


def _defect(image: Path, base: Path) -> str:
    inner = image.relative_to(base).parts[:-1]
    defect = inner[0] if inner else os.path.basename(os.path.abspath(base)) or "abnormal"
    if defect == GOOD:
        raise DatasetError(
            f"{image}: a folder {GOOD!r} is among the abnormal images: give it as normal ones"
            " (data.normal_test), and the folders of the defects alone as abnormal"
        )
    return defect


def _require_once(given: Mapping[str, Iterable[Path]]) -> None:
    """Keep an image from being fitted on and tested on, under whatever names."""
    seen: dict[Path, tuple[str, Path]] = {}
    for key, paths in given.items():
        for path in paths:
            before, same = seen.setdefault(path.resolve(), (key, path))
            if same is not path:
                raise DatasetError(f"{path}: is given twice, by data.{before} and by data.{key}")
