"""UCSD Ped2 and CUHK Avenue, on small trees in their published layouts."""

import inspect
import re
import shutil
import weakref
from pathlib import Path
from traceback import clear_frames
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from PIL import Image
from scipy.io import loadmat, savemat

from datamodules import Loading, avenue
from datamodules.avenue import Avenue
from datamodules.errors import DatasetError, ImageError
from datamodules.ped2 import UCSDPed2
from datamodules.preprocessing import Preprocessing
from datamodules.surveillance import SurveillanceData
from trees import data_module
from videos import SIZE, footage, intrude, write_video

TRAIN = {1: 6, 2: 4}
TEST = {1: 7, 10: 5}
"""Numbers of the videos and their frames; each of `TEST` is anomalous from its middle on."""


def ped2_tree(root: Path) -> Path:
    for number, count in TRAIN.items():
        save_images(root / f"Train/Train{number:03}", grey(count, number)[..., 0], ".tif")
    for number in TEST:
        frames, masks = labelled_video(number)
        save_images(root / f"Test/Test{number:03}", frames[..., 0], ".tif")
        save_images(root / f"Test/Test{number:03}_gt", 255 * masks, ".bmp")
    return root


def avenue_tree(root: Path) -> Path:
    for number, count in TRAIN.items():
        write_video(root / f"training_videos/{number:02}.avi", grey(count, number))
    for number in TEST:
        frames, masks = labelled_video(number)
        write_video(root / f"testing_videos/{number:02}.avi", frames)
        save_cells(mat_file(root, number), masks)
    return root


def labelled_video(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a test video, (count, H, W, 3), and masks, (count, H, W), 0 or 1."""
    frames = grey(TEST[number], number)
    return frames, intrude(frames)


def grey(count: int, seed: int) -> np.ndarray:
    """`footage` without its colours, (count, H, W, 3)."""
    return footage(count, seed)[..., :1].repeat(3, axis=-1)


def save_images(folder: Path, images: np.ndarray, suffix: str) -> None:
    """Write 001, 002, ... from images (count, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=1):
        Image.fromarray(image).save(folder / f"{number:03}{suffix}")


def mat_file(root: Path, number: int) -> Path:
    return root / f"ground_truth_demo/testing_label_mask/{number}_label.mat"


def save_cells(path: Path, masks: np.ndarray, variable: str = "volLabel") -> None:
    """Write masks (frames, H, W) as a 1 x frames cell array."""
    cells = np.empty((1, len(masks)), object)
    for number, mask in enumerate(masks):
        cells[0, number] = mask
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {variable: cells})


LAYOUTS = [
    pytest.param(UCSDPed2, ped2_tree, id="Ped2"),
    pytest.param(Avenue, avenue_tree, id="Avenue"),
]


def small(kind: type[SurveillanceData], root: Path, **kwargs) -> SurveillanceData:
    options = {"resize": SIZE, "batch_size": 4, "num_workers": 0} | kwargs
    return data_module(kind, root, **options)


def pixels(batch: dict) -> np.ndarray:
    return batch["image"].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_training_batches_are_the_frames(tmp_path, kind, tree):
    data = small(kind, tree(tmp_path))
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(batch["path"]) for batch in batches] == [4, 2, 4]
    assert all(set(batch) == {"image", "path"} for batch in batches)
    encoded = np.concatenate([grey(count, number) for number, count in TRAIN.items()])
    assert np.array_equal(np.concatenate([pixels(batch) for batch in batches]), encoded)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_frames_counted_before_are_left_out(tmp_path, kind, tree, num_workers):
    data = small(kind, tree(tmp_path), num_workers=num_workers)
    data.setup()
    every = [path for batch in data.train_dataloader() for path in batch["path"]]
    data.counted = {*every[:6], every[8]}  # all of a video, and one of another
    loader = data.train_dataloader()
    rest = [batch["path"] for batch in loader]
    assert sorted(path for paths in rest for path in paths) == sorted({*every} - {*data.counted})
    assert len(rest) == len(loader)


@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_processes_share_the_frames(tmp_path, kind, tree):
    data = small(kind, tree(tmp_path))
    shared = {"train": [], "test": []}
    for rank in range(3):  # more than there are videos
        data.trainer = SimpleNamespace(world_size=3, global_rank=rank)
        for name, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
            batches = list(loader)
            assert len(batches) == len(loader)
            assert sum(len(batch["path"]) for batch in batches) in (3, 4)
            shared[name] += [path for batch in batches for path in batch["path"]]
    data.trainer = None
    for name, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        assert shared[name] == [path for batch in loader for path in batch["path"]]


def test_fewer_frames_than_processes_are_refused(tmp_path):
    data = small(UCSDPed2, ped2_tree(tmp_path))
    data.trainer = SimpleNamespace(world_size=11, global_rank=0)
    with pytest.raises(DatasetError, match="10 images are too few for 11 processes: use 10 dev"):
        data.train_dataloader()


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_test_batches_are_the_frames_with_their_masks(tmp_path, kind, tree, stride, num_workers):
    data = small(kind, tree(tmp_path), test_stride=stride, batch_size=12, num_workers=num_workers)
    data.setup()
    assert data.has_test
    batches = list(data.test_dataloader())
    assert len(batches) == len(TEST)
    for number, batch in zip(TEST, batches, strict=True):
        frames, masks = (array[::stride] for array in labelled_video(number))
        labels = masks.any(axis=(1, 2)).astype(int).tolist()
        assert set(labels) == {0, 1}
        assert batch["frame"].tolist() == list(range(0, TEST[number], stride))
        assert batch["label"].tolist() == labels
        assert batch["defect"] == [("good", "anomaly")[label] for label in labels]
        assert batch["mask"].dtype == torch.bool
        assert np.array_equal(batch["mask"].numpy(), masks != 0)
        assert np.array_equal(pixels(batch), frames)


@pytest.mark.parametrize(
    ("kind", "tree", "video", "path"),
    [
        (UCSDPed2, ped2_tree, "Test010", "Test/Test010/004.tif"),
        (Avenue, avenue_tree, "10", "testing_videos/10.avi#3"),
    ],
)
def test_names_and_picture(tmp_path, kind, tree, video, path):
    data = small(kind, tree(tmp_path), resize=24, crop=20)
    batch = list(data.test_dataloader())[-2]
    assert batch["video"] == [video] * 4
    assert batch["path"][3] == str(tmp_path / path)
    assert torch.equal(data.picture(batch["path"][3]), batch["image"][3])


@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_masks_are_resized_with_the_image(tmp_path, kind, tree):
    preprocessing = Preprocessing((64, 96), (48, 48))
    data = small(kind, tree(tmp_path), resize=(64, 96), crop=(48, 48))
    batch = list(data.test_dataloader())[1]
    assert batch["frame"].tolist() == [4, 5, 6]
    masks = torch.from_numpy(labelled_video(1)[1][4:] != 0)
    assert torch.equal(batch["mask"], torch.stack([preprocessing.mask(mask) for mask in masks]))


@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_other_files_are_left_alone(tmp_path, kind, tree):
    root = tree(tmp_path)
    for path in list(root.glob("**/*.*")):
        path.with_name(f"._{path.name}").write_bytes(b"of macOS")
    for name in ("Train/notes", "Test/UCSDped2.m", "training_videos/a.avi", "testing_videos/1.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"notes")
    data = small(kind, root)
    data.setup()
    assert [clip.length for clip in data.train_clips] == list(TRAIN.values())
    assert [clip.length for clip in data.test_clips] == list(TEST.values())


@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
@pytest.mark.parametrize(
    ("options", "size", "window"),
    [
        ({"resolution": "original"}, SIZE, [4, 6, 28, 42]),
        ({"resize_mode": "letterbox", "crop": None}, (16, 24), [-4, 0, 20, 24]),
    ],
)
def test_masks_at_other_resolutions(tmp_path, kind, tree, options, size, window):
    options = {"resize": 24 if "crop" in options else SIZE, "crop": (24, 36)} | options
    data = small(kind, tree(tmp_path), **options)
    batch = next(iter(data.test_dataloader()))
    assert [mask.shape for mask in batch["mask"]] == [size] * len(batch["path"])
    assert batch["window"].tolist() == [window] * len(batch["path"])
    assert data.picture(batch["path"][0]).shape == (3, *size)


@pytest.mark.parametrize("name", ["stc", "ped2", "avenue"])
def test_a_config_has_the_defaults(name):
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("fit", [f"data={name}"]).data
    data = instantiate(config)
    assert data.image_size == (256, 256)
    assert data.preprocessing == data.default_preprocessing
    assert data.loading == Loading()
    for parameter in inspect.signature(type(data)).parameters.values():
        if parameter.name not in ("root", "scene", "preprocessing", "loading"):
            assert config[parameter.name] == parameter.default


def fails(data: SurveillanceData, expected: str) -> None:
    with pytest.raises(DatasetError, match=expected):
        data.setup()


@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_no_training_video(tmp_path, kind, tree):
    fails(kind(tmp_path / "none"), "/none: no such folder; put the data there$")
    fails(
        kind(tmp_path),
        r"no training videos; expected in \S*/(Train are Train001/001\.tif|training_videos are 01)",
    )


@pytest.mark.parametrize("count", [6, 8])
def test_masks_of_another_number_of_frames(tmp_path, count):
    masks = np.zeros((count, *SIZE), np.uint8)
    save_cells(mat_file(avenue_tree(tmp_path / "avenue"), 1), masks)
    ped2 = ped2_tree(tmp_path / "ped2")
    shutil.rmtree(ped2 / "Test/Test001_gt")
    save_images(ped2 / "Test/Test001_gt", masks, ".bmp")
    expected = f": is for {count} frames, but {{}} has 7: unpack both again$"
    fails(small(Avenue, tmp_path / "avenue"), r"/1_label\.mat" + expected.format(r"\S*/01\.avi"))
    fails(small(UCSDPed2, ped2), "/Test001_gt" + expected.format(r"\S*/Test001"))


def test_clips_of_ped2_without_masks_are_left_out(tmp_path, caplog):
    data = small(UCSDPed2, ped2_tree(tmp_path))
    (tmp_path / "Test/Test001_gt").rename(tmp_path / "elsewhere")
    data.setup()
    assert [clip.path.name for clip in data.test_clips] == ["Test010"]
    assert caplog.messages == [f"{tmp_path}/Test: clips without masks are left out: Test001"]


def test_ped2_without_any_masks_has_no_test(tmp_path):
    for folder in ped2_tree(tmp_path).glob("Test/*_gt"):
        folder.rename(tmp_path / folder.name)
    assert not small(UCSDPed2, tmp_path).has_test


def test_a_video_of_avenue_without_masks(tmp_path):
    mat_file(avenue_tree(tmp_path), 10).unlink()
    fails(small(Avenue, tmp_path), r"/10_label\.mat: no such file; each test video needs its mask")


@pytest.mark.parametrize(
    ("kind", "tree", "video", "expected"),
    [
        (UCSDPed2, ped2_tree, "Test/Test001", r"/Test001: no such folder, but \S*/Test001_gt says"),
        (Avenue, avenue_tree, "testing_videos/01.avi", r"/01\.avi: no such file, but \S*/1_label"),
    ],
)
def test_masks_without_a_video(tmp_path, kind, tree, video, expected):
    (tree(tmp_path) / video).rename(tmp_path / "elsewhere")
    fails(small(kind, tmp_path), expected)


@pytest.mark.parametrize(("kind", "tree"), LAYOUTS)
def test_videos_that_cannot_be_used_are_left_out(tmp_path, kind, tree, caplog):
    tree(tmp_path)
    for name in ("Test/Test001_gt/003.bmp", "testing_videos/01.avi"):
        (tmp_path / name).unlink(missing_ok=True)
    data = small(kind, tmp_path, on_error="skip")
    data.setup()
    assert [clip.length for clip in data.test_clips] == [TEST[10]]
    (message,) = caplog.messages
    assert re.search(r"; video (Test001|01) is left out$", message)


@pytest.mark.parametrize("content", [b"", b"no MATLAB file", bytes(5000)])
def test_damaged_masks_of_avenue(tmp_path, content):
    mat_file(avenue_tree(tmp_path), 1).write_bytes(content)
    fails(small(Avenue, tmp_path), r"/1_label\.mat: cannot be read as masks: Mat file appears")


def test_a_matlab_file_of_something_else(tmp_path):
    save_cells(mat_file(avenue_tree(tmp_path), 1), labelled_video(1)[1], variable="vol")
    fails(small(Avenue, tmp_path), r"/1_label\.mat: has no cell array volLabel")


def breaks(data: SurveillanceData, error: type[Exception], expected: str) -> None:
    """Setup finds nothing; reading the test does, with one line that crosses from a worker."""
    data.setup()
    with pytest.raises(error, match=expected) as caught:
        list(data.test_dataloader())
    assert "\n" not in str(caught.value)
    clear_frames(caught.tb)  # torch's re-raise is a reference cycle: it would keep the worker


@pytest.mark.parametrize("num_workers", [0, 1])
def test_masks_of_avenue_that_are_cut_off(tmp_path, num_workers):
    path = mat_file(avenue_tree(tmp_path), 10)
    path.write_bytes(path.read_bytes()[:-100])
    data = small(Avenue, tmp_path, num_workers=num_workers)
    breaks(data, DatasetError, rf"^{re.escape(str(path))}: cannot be read as masks: ")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_mask_of_ped2(tmp_path, num_workers):
    path = ped2_tree(tmp_path) / "Test/Test010_gt/003.bmp"
    path.write_bytes(path.read_bytes()[:100])
    data = small(UCSDPed2, tmp_path, num_workers=num_workers)
    breaks(data, ImageError, rf"^{re.escape(str(path))}: cannot be read as an image: ")


def test_masks_of_another_size(tmp_path):
    masks = np.zeros((7, 20, 30), np.uint8)
    save_cells(mat_file(avenue_tree(tmp_path), 1), masks)
    save_images(ped2_tree(tmp_path) / "Test/Test001_gt", masks, ".bmp")
    expected = r" is 20 x 30 px, its image \S* is 32 x 48 px$"
    breaks(small(Avenue, tmp_path), DatasetError, r"/1_label\.mat: the mask" + expected)
    breaks(small(UCSDPed2, tmp_path), DatasetError, r"/Test001_gt/001\.bmp: the mask" + expected)


def test_masks_of_one_video_of_avenue_are_in_memory(tmp_path, monkeypatch):
    loaded: list[weakref.ref[np.ndarray]] = []

    def watched(*args, **kwargs):
        assert not any(masks() is not None for masks in loaded)
        content = loadmat(*args, **kwargs)
        loaded.append(weakref.ref(content["volLabel"]))
        return content

    monkeypatch.setattr(avenue, "loadmat", watched)
    for _ in small(Avenue, avenue_tree(tmp_path), batch_size=1).test_dataloader():
        pass
    assert len(loaded) == len(TEST)
