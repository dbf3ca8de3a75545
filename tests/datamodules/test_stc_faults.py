"""What of ShanghaiTech Campus may be missing or broken, and what is said of it."""

import logging
import re
from pathlib import Path
from traceback import clear_frames

import numpy as np
import pytest

from datamodules.errors import DatasetError, ImageError
from datamodules.stc import STC
from datamodules.video import frame_path
from videos import (
    TRAIN,
    cut_off,
    damage,
    footage,
    paths,
    seen_by_lightning,
    stc,
    stc_tree,
    write_video,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return stc_tree(tmp_path)


def fails(root: Path, expected: str, error: type[Exception] = DatasetError, **kwargs) -> None:
    with pytest.raises(error, match=expected):
        stc(root, **kwargs).setup()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scene", 0),
        ("scene", "one"),
        ("train_frames", 0),
        ("train_stride", -1),
        ("test_stride", 2.5),
        ("on_error", "ignore"),
    ],
)
def test_arguments(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"^{key} must be .*, got {value!r}$"):
        STC(tmp_path, **{"scene": 1, key: value})


def test_missing_root(tmp_path):
    fails(tmp_path / "none", "/none: no such folder; put the data there$")


def test_missing_scene(root):
    fails(root, "no training video of scene 03; it has scenes 01, 02$", scene=3)


def test_root_of_something_else(tmp_path):
    fails(tmp_path, r"no training videos; expected in \S*/training are videos/SS_VVV\.avi or")


def test_empty_folder_of_frames(root):
    (root / "training/frames/01_002").mkdir(parents=True)
    fails(root, "/training/frames/01_002: has no frames$")


@pytest.mark.parametrize("kind", ["frame", "pixel"])
def test_missing_mask(root, kind):
    (root / f"testing/test_{kind}_mask/01_0014.npy").unlink()
    fails(root, rf"/test_{kind}_mask/01_0014\.npy: no such file; each test video needs its masks$")


@pytest.mark.parametrize(
    ("kind", "masks", "given"), [("frame", 1, 0), ("frame", np.ones((12, 2)), 2), ("pixel", [1], 1)]
)
def test_masks_of_another_shape(root, kind, masks, given):
    np.save(root / f"testing/test_{kind}_mask/01_0014.npy", masks)
    fails(root, rf"/01_0014\.npy: cannot be read as masks: it has {given} dimensions instead of")


@pytest.mark.parametrize("kind", ["frame", "pixel"])
def test_masks_of_another_number_of_frames(root, kind):
    path = root / f"testing/test_{kind}_mask/01_0014.npy"
    np.save(path, np.load(path)[:-2])
    fails(root, rf"/test_{kind}_mask/01_0014\.npy: is for 10 frames, but \S*/01_0014 has 12:")


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_damaged_masks(root, content):
    path = root / "testing/test_pixel_mask/01_0014.npy"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    fails(root, r"/test_pixel_mask/01_0014\.npy: cannot be read as masks: ")


def test_masks_without_a_video(root):
    (root / "testing/frames/01_0014").rename(root / "elsewhere")
    fails(root, r"/testing/frames/01_0014: no such folder, but \S*/01_0014\.npy says")


@pytest.mark.parametrize("content", [b"", b"no video", bytes(5000)])
def test_a_file_that_is_no_video(root, content):
    (root / "training/videos/01_002.avi").write_bytes(content)
    fails(root, r"/01_002\.avi: cannot be read as a video: Invalid data found", ImageError)


def breaks(data: STC, split: str, error: type[Exception], expected: str) -> None:
    """Setup finds nothing; reading does, with one line that crosses from a worker."""
    data.setup()
    with pytest.raises(error, match=expected) as caught:
        list(getattr(data, f"{split}_dataloader")())
    assert "\n" not in str(caught.value)
    clear_frames(caught.tb)  # torch's re-raise is a reference cycle: it would keep the worker


@pytest.mark.parametrize("num_workers", [0, 1])
def test_masks_of_another_size(root, num_workers):
    masks = root / "testing/test_pixel_mask/01_0015.npy"
    np.save(masks, np.zeros((7, 20, 30), np.uint8))
    expected = (
        rf"^{re.escape(str(masks))}: the mask is 20 x 30 px,"
        r" its image \S*/01_0015/000\.jpg is 32 x 48 px$"
    )
    breaks(stc(root, num_workers=num_workers), "test", DatasetError, expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_ends_early(root, num_workers):
    cut_off(root / "training/videos/01_001.avi", frames=9)
    expected = r"^\S*/01_001\.avi: decoded 9 of 14 frames, so there is no frame 9$"
    breaks(stc(root, num_workers=num_workers), "train", ImageError, expected)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("share", "reason"),
    [(1.0, "cannot be decoded: Invalid data found when processing input"), (0.5, "is damaged")],
)
def test_a_damaged_frame_of_a_video(root, share, reason, num_workers):
    video = write_video(root / "training/videos/01_002.avi", footage(14), "mpeg4", "yuv420p")
    damage(video, frame=5, share=share)
    expected = rf"^\S*/01_002\.avi: frame 5 {reason}$"
    breaks(stc(root, num_workers=num_workers), "train", ImageError, expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_jpg(root, num_workers):
    path = root / "testing/frames/01_0014/005.jpg"
    path.write_bytes(path.read_bytes()[:300])
    expected = rf"^{re.escape(str(path))}: cannot be read as an image: "
    breaks(stc(root, num_workers=num_workers), "test", ImageError, expected)


def test_a_frame_that_is_not_there(root):
    video = root / "training/videos/01_001.avi"
    with pytest.raises(ImageError, match=r"decoded 14 of 14 frames, so there is no frame 14$"):
        stc(root).picture(frame_path(video, 14))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_rest_of_a_broken_video_is_left_out(root, num_workers):
    cut_off(root / "training/videos/01_001.avi", frames=9)
    loader = stc(root, num_workers=num_workers, on_error="skip").train_dataloader()
    kept = [path for path in paths(loader) if "01_001" in path]
    assert [int(path.split("#")[1]) for path in kept] == list(range(9))
    assert len(paths(loader)) == 28 - 5


def test_only_a_broken_jpg_is_left_out(root, caplog):
    (root / "testing/frames/01_0014/005.jpg").write_bytes(b"")
    (root / "testing/frames/01_0015/002.jpg").write_bytes(b"")
    batches = list(stc(root, test_stride=1, on_error="skip").test_dataloader())
    numbers = {"01_0014": list(range(12)), "01_0015": list(range(7))}
    numbers["01_0014"].remove(5)
    numbers["01_0015"].remove(2)
    for video, expected in numbers.items():
        frames = [n for b in batches if b["video"][0] == video for n in b["frame"].tolist()]
        assert frames == expected
    assert [record.message.partition("/frames/")[2] for record in caplog.records[:2]] == [
        "01_0014/005.jpg: the file is empty (0 bytes); 1 frames are left out",
        "01_0015/002.jpg: the file is empty (0 bytes); 1 frames are left out",
    ]
    assert caplog.records[2].message == "2 frames that cannot be read were left out"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_videos_that_cannot_be_used_are_left_out(root, caplog):
    (root / "training/videos/01_002.avi").write_bytes(b"no video")
    (root / "testing/test_pixel_mask/01_0014.npy").unlink()
    data = stc(root, on_error="skip")
    data.setup()
    assert len(paths(data.train_dataloader())) == 28 - 9
    assert {video for batch in data.test_dataloader() for video in batch["video"]} == {"01_0015"}
    first, second = (record.message for record in caplog.records)
    assert re.search(r"/01_002\.avi: cannot be read .*; video 01_002 is left out$", first)
    assert re.search(r"/01_0014\.npy: no such file; .*; video 01_0014 is left out$", second)


def test_nothing_is_left(root):
    for name in TRAIN:
        (root / f"training/videos/{name}.avi").write_bytes(b"no video")
    fails(root, "no training video of scene 01 can be read$", on_error="skip")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("frames", [13, 3])
def test_lightning_gets_the_other_batches(root, caplog, num_workers, frames):
    cut_off(root / "training/videos/01_001.avi", frames=frames)
    assert (
        len(seen_by_lightning(stc(root, on_error="skip", num_workers=num_workers))) == frames + 14
    )
    if num_workers == 0:  # the records of a worker are its own
        assert f"{14 - frames} frames that cannot be read were left out" in caplog.messages
