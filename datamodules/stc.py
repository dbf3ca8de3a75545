"""ShanghaiTech Campus: one model a scene, fitted on videos of normal days."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from datamodules.clips import Clip, FrameTruth, OnError, natural_order
from datamodules.errors import DatasetError
from datamodules.images import Size
from datamodules.surveillance import SurveillanceData, require_length, require_positive
from datamodules.video import is_video


class STC(SurveillanceData):
    """A scene of ShanghaiTech Campus (Luo et al., ICCV 2017), read as published.

    ```
    <root>/training/videos/SS_VVV.avi            scene, video; normal
           training/frames/SS_VVV/*.jpg          instead of the video, where there is this folder
           testing/frames/SS_VVVV/*.jpg          or testing/videos/SS_VVVV.avi
           testing/test_frame_mask/SS_VVVV.npy   (frames,), 0 normal
           testing/test_pixel_mask/SS_VVVV.npy   (frames, height, width), 0 normal
    ```

    Labels are those of the frame masks. Batches, and arguments not named, as for
    `SurveillanceData`.

    Args:
        root: the folder of `training` and `testing`.
        scene: 1 to 13, or as the files have it, "01" to "13".
        train_frames: None for all. About 5,000 is what SPADE (arXiv 2005.02357) used, with whom
            PaDiM compares.
        test_stride: SPADE's is 5.
    """

    category_key = "scene"
    pooled = True
    known_categories = tuple(f"{scene:02}" for scene in range(1, 14))
    train_folder = "training"
    train_names = "videos/SS_VVV.avi or frames/SS_VVV/*.jpg, SS the scene"

    def __init__(
        self,
        root: str | Path,
        scene: int | str,
        train_frames: int | None = 5000,
        train_stride: int = 1,
        test_stride: int = 5,
        on_error: OnError = "raise",
        resize: Size | None = 256,
        crop: Size | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
    ) -> None:
        super().__init__(
            root,
            train_frames,
            train_stride,
            test_stride,
            on_error,
            resize,
            crop,
            batch_size,
            num_workers,
        )
        scene = int(scene) if isinstance(scene, str) and scene.isdecimal() else scene
        require_positive("scene", scene)
        self.scene = int(scene)
        self.name = f"{scene:02}"

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """The scenes under `root` with training videos, known or not, sorted: "01", ..."""
        scenes = sorted({_scene(name) for name in _videos(Path(root, cls.train_folder))})
        return [f"{scene:02}" for scene in scenes]

    @property
    def _subject(self) -> str:
        return f"scene {self.name}"

    def _train_videos(self) -> dict[str, Path]:
        return self._of_scene(_videos(self.folder / self.train_folder))

    def _test_videos(self) -> dict[str, tuple[Path, Path]]:
        testing = self.folder / "testing"
        videos = self._of_scene(_videos(testing))
        masks = self._of_scene(_by_name(testing.glob("test_frame_mask/*.npy")))
        return {
            name: (
                videos.get(name, testing / "frames" / name),
                testing / "test_frame_mask" / f"{name}.npy",
            )
            for name in sorted({*videos, *masks})
        }

    def _truth(self, clip: Clip, masks: Path) -> "_Truth":
        pixel_masks = masks.parents[1] / "test_pixel_mask" / masks.name
        labels = _open_masks(masks)
        require_length(masks, len(labels), clip)
        require_length(pixel_masks, len(_open_masks(pixel_masks)), clip)
        return _Truth((labels != 0).astype(int).tolist(), pixel_masks)

    def _of_scene(self, videos: dict[str, Path]) -> dict[str, Path]:
        return {name: path for name, path in videos.items() if _scene(name) == self.scene}

    def _diagnosis(self) -> str:
        if scenes := self.present_categories(self.folder):
            found = ", ".join(scenes)
            return f"{self.folder}: no training video of {self._subject}; it has scenes {found}"
        return super()._diagnosis()


@dataclass(frozen=True)
class _Truth:
    """Labels of all frames, and the .npy file of their masks."""

    labels: Sequence[int]
    masks: Path

    def read(self, wanted: Sequence[int]) -> Iterator[FrameTruth]:
        masks = _open_masks(self.masks)
        for number in wanted:
            mask = torch.from_numpy(masks[number] != 0)
            yield FrameTruth(mask, self.labels[number], self.masks)


def _open_masks(path: Path) -> np.ndarray:
    """A .npy file of masks, one a frame, as an array that is read where it is indexed."""
    try:
        return np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; each test video needs its masks") from None
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path}: cannot be read as masks: {error}") from error


def _videos(part: Path) -> dict[str, Path]:
    """Name -> video file, or folder of its frames where there is one; all scenes, sorted."""
    files = filter(is_video, part.glob("videos/*"))
    folders = filter(Path.is_dir, part.glob("frames/*"))
    found = _by_name([*files, *folders])
    return dict(sorted(found.items(), key=lambda item: natural_order(item[1])))


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """SS_VVV -> path; other names are left out."""
    return {path.stem: path for path in paths if re.fullmatch(r"\d+_\d+", path.stem)}


def _scene(name: str) -> int:
    return int(name.partition("_")[0])
