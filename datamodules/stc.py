"""ShanghaiTech Campus: one model a scene, fitted on videos of normal days."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.clips import Annotations, Clip, OnError
from datamodules.errors import require_positive
from datamodules.finding import is_video
from datamodules.loading import Loading
from datamodules.preprocessing import Preprocessing
from datamodules.surveillance import SurveillanceData, numbered, reading_masks, require_length

NAME = r"(\d+)_(\d+)"
"""Scene and number in the name of a video or of its masks."""


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
        preprocessing: Preprocessing | None = None,
        loading: Loading | None = None,
    ) -> None:
        strides = train_stride, test_stride
        super().__init__(root, train_frames, *strides, on_error, preprocessing, loading)
        scene = int(scene) if isinstance(scene, str) and scene.isdecimal() else scene
        require_positive("scene", scene)
        self.scene = int(scene)
        self.name = f"{scene:02}"

    @classmethod
    def present_categories(cls, root: str | Path) -> list[str]:
        """The scenes under `root` with training videos, known or not, sorted: "01", ..."""
        scenes = {scene for scene, _ in _videos(Path(root, cls.train_folder))}
        return [f"{scene:02}" for scene in sorted(scenes)]

    def _train_videos(self) -> list[Path]:
        videos = _videos(self.folder / self.train_folder)
        return [path for (scene, _), path in videos.items() if scene == self.scene]

    def _test_videos(self) -> list[tuple[Path, Path]]:
        testing = self.folder / "testing"
        videos = _videos(testing)
        masks = numbered(testing.glob("test_frame_mask/*.npy"), NAME)
        names = {key: path.stem for key, path in (masks | videos).items() if key[0] == self.scene}
        return [
            (
                videos.get(key, testing / "frames" / name),
                testing / "test_frame_mask" / f"{name}.npy",
            )
            for key, name in sorted(names.items())
        ]

    def _annotations(self, clip: Clip, masks: Path) -> Annotations:
        pixel_masks = masks.parents[1] / "test_pixel_mask" / masks.name
        labels = _open_masks(masks, ndim=1)
        require_length(masks, len(labels), clip)
        require_length(pixel_masks, len(_open_masks(pixel_masks, ndim=3)), clip)
        return Annotations(partial(_read_masks, pixel_masks), (labels != 0).astype(int).tolist())

    def _diagnosis(self) -> str:
        if scenes := self.present_categories(self.folder):
            found = ", ".join(scenes)
            return f"{self.folder}: no training video of scene {self.name}; it has scenes {found}"
        return super()._diagnosis()


def _read_masks(path: Path, wanted: Sequence[int]) -> Iterator[tuple[Path, Tensor]]:
    masks = _open_masks(path, ndim=3)
    return ((path, torch.from_numpy(masks[number] != 0)) for number in wanted)


def _open_masks(path: Path, ndim: int) -> np.ndarray:
    """A .npy file of masks, one a frame, as an array that is read where it is indexed."""
    with reading_masks(path):
        masks: np.ndarray = np.load(path, mmap_mode="r")
        if masks.ndim != ndim:
            raise ValueError(f"it has {masks.ndim} dimensions instead of {ndim}, {masks.shape}")
        return masks


def _videos(part: Path) -> dict[tuple[int, ...], Path]:
    """Scene and number -> video file, or folder of its frames where there is one."""
    files = filter(is_video, part.glob("videos/*"))
    return numbered([*files, *filter(Path.is_dir, part.glob("frames/*"))], NAME)
