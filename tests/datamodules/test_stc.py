import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.preprocessing import Preprocessing
from datamodules.stc import STC
from datamodules.video import frame_path
from videos import (
    SIZE,
    TEST,
    TRAIN,
    footage,
    intrude,
    paths,
    save_masks,
    seen_by_lightning,
    stc,
    stc_tree,
    write_frames,
    write_video,
)

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL_LAYOUT = SHARED_DATA / "stc_layout"
REAL_MASKS = SHARED_DATA / "stc_frame_masks"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return stc_tree(tmp_path)


def image_of(path: str, loader) -> torch.Tensor:
    """The image, (3, H, W), that a loader has for a path."""
    return next(
        image
        for batch in loader
        for name, image in zip(batch["path"], batch["image"], strict=True)
        if name == path
    )


def test_training_batches(root):
    data = stc(root)
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(batch["path"]) for batch in batches] == [4, 4, 4, 2, 4, 4, 1, 4, 1]
    assert all(batch["image"].shape[1:] == (3, *SIZE) for batch in batches)
    assert {batch["image"].dtype for batch in batches} == {torch.uint8}
    assert data.name == "01"
    assert data.image_size == SIZE


def test_decoded_frames_are_the_encoded_ones(root):
    images = torch.cat([batch["image"] for batch in stc(root).train_dataloader()])
    encoded = np.concatenate([footage(TRAIN[f"01_{i + 1:03}"], seed=i) for i in range(3)])
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), encoded)


def test_test_batches(root):
    data = stc(root, test_stride=3)
    batches = list(data.test_dataloader())
    assert [batch["video"] for batch in batches] == [["01_0014"] * 4, ["01_0015"] * 3]
    assert [batch["frame"].tolist() for batch in batches] == [[0, 3, 6, 9], [0, 3, 6]]
    assert [batch["label"].tolist() for batch in batches] == [[0, 0, 1, 1], [0, 1, 1]]
    assert [batch["defect"] for batch in batches] == [
        ["good", "good", "anomaly", "anomaly"],
        ["good", "anomaly", "anomaly"],
    ]
    assert {batch["mask"].dtype for batch in batches} == {torch.bool}
    assert {batch["label"].dtype for batch in batches} == {torch.int64}
    frames = root / "testing/frames/01_0015"
    assert batches[1]["path"] == [str(frames / f"{number:03}.jpg") for number in (0, 3, 6)]
    # A grey level or two is what JPEG costs; another frame has the walker elsewhere, 40 and more.
    encoded = footage(7)
    intrude(encoded)
    errors = batches[1]["image"].permute(0, 2, 3, 1).numpy().astype(float) - encoded[[0, 3, 6]]
    assert np.abs(errors).mean((1, 2, 3)).max() < 2


@pytest.mark.parametrize("stride", [1, 2, 5])
def test_masks_and_labels_are_those_of_the_frame(root, stride):
    for batch in stc(root, test_stride=stride).test_dataloader():
        for kind, values in (("frame", batch["label"]), ("pixel", batch["mask"])):
            expected = np.load(root / f"testing/test_{kind}_mask/{batch['video'][0]}.npy")
            assert np.array_equal(values.numpy(), expected[batch["frame"]])


def test_masks_are_resized_with_the_image(root):
    batch = next(iter(stc(root, resize=(64, 96), crop=(48, 48)).test_dataloader()))
    assert batch["frame"].tolist() == [0, 5, 10]
    mask = torch.from_numpy(np.load(root / "testing/test_pixel_mask/01_0014.npy")[10] != 0)
    expected = Preprocessing((64, 96), (48, 48)).mask(mask)
    assert expected.any()
    assert torch.equal(batch["mask"][2], expected)


def test_an_anomalous_frame_may_have_an_empty_pixel_mask(root):
    np.save(root / "testing/test_pixel_mask/01_0015.npy", np.zeros((7, *SIZE), np.uint8))
    batch = list(stc(root, test_stride=1, batch_size=12).test_dataloader())[1]
    assert batch["label"].sum() == 4
    assert not batch["mask"].any()


def test_a_folder_of_frames_is_used_instead_of_the_video(root):
    folder = write_frames(root / "training/frames/01_002", footage(3), name="{}.png")
    named = [path for path in paths(stc(root).train_dataloader()) if "01_002" in path]
    assert named == [str(folder / f"{number}.png") for number in range(3)]


def test_a_test_video_may_be_a_file(root):
    video = root / "testing/videos/02_0003.avi"
    encoded = footage(6)
    save_masks(root, "02_0003", intrude(encoded))
    write_video(video, encoded)
    (batch,) = stc(root, scene=2, test_stride=2).test_dataloader()
    assert batch["path"] == [f"{video}#{number}" for number in (0, 2, 4)]
    assert batch["label"].tolist() == [0, 0, 1]
    assert np.array_equal(batch["image"].permute(0, 2, 3, 1).numpy(), encoded[::2])


def test_frames_are_in_the_order_of_their_numbers(root):
    folder = write_frames(root / "training/frames/01_003", footage(12), name="{}.jpg")
    (folder / "2.jpg").rename(folder / "002.jpg")
    named = [path for path in paths(stc(root).train_dataloader()) if "01_003" in path]
    assert [int(Path(path).stem) for path in named] == list(range(12))


def test_a_scene_without_test_videos(root):
    data = stc(root, scene=2)
    data.setup()
    assert not data.has_test
    assert stc(root).has_test
    assert len(paths(data.train_dataloader())) == 4


def test_scenes(root):
    assert STC.known_categories == tuple(f"{scene:02}" for scene in range(1, 14))
    assert STC.present_categories(root) == ["01", "02"]
    assert STC.missing_categories(root) == list(STC.known_categories[2:])
    assert STC.present_categories(root / "none") == []
    assert STC(root, "02").scene == STC(root, 2).scene == 2


def test_other_files_are_left_alone(root):
    for name in ("training/videos/._01_004.avi", "training/videos/notes.avi"):
        (root / name).write_bytes(b"no video")
    (root / "testing/test_frame_mask/._01_0014.npy").write_bytes(b"no masks")
    data = stc(root)
    data.setup()
    assert len(data.train_clips) == 3
    assert len(data.test_clips) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_picture_is_the_image_that_a_path_names(root, split):
    data = stc(root, resize=24, crop=20)
    loader = getattr(data, f"{split}_dataloader")()
    path = paths(loader)[-1]
    assert torch.equal(data.picture(path), image_of(path, loader))


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_frame_comes_once_for_any_number_of_workers(root, num_workers, stride):
    data = stc(root, train_stride=stride, num_workers=num_workers)
    loader = data.train_dataloader()
    batches = list(loader)
    expected = [
        frame_path(root / f"training/videos/{name}.avi", number)
        for name, length in TRAIN.items()
        if name.startswith("01")
        for number in range(0, length, stride)
    ]
    assert sorted(paths(batches)) == sorted(expected)
    assert len(loader) == len(batches)
    assert loader.dataset.images == len(expected)
    assert all(len({path.split("#")[0] for path in batch["path"]}) == 1 for batch in batches)
    frame = expected[-1]
    assert torch.equal(image_of(frame, batches), data.picture(frame))


@pytest.mark.parametrize("num_workers", [0, 3])
def test_every_test_frame_comes_once_for_any_number_of_workers(root, num_workers):
    loader = stc(root, test_stride=1, num_workers=num_workers).test_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches)
    assert len(set(paths(batches))) == len(paths(batches)) == sum(TEST.values())


def test_videos_are_shared_out_evenly(root):
    data = stc(root, num_workers=2)
    first_worker, second_worker = {"01_001"}, {"01_002", "01_003"}  # 14, and 9 + 5 frames
    videos = [Path(batch["path"][0]).stem for batch in data.train_dataloader()]
    assert set(videos[0:8:2]) == first_worker
    assert set(videos[1:8:2]) == second_worker


@pytest.mark.parametrize("count", [1, 2, 5, 7, 14])
def test_train_frames_are_spread_evenly(root, count):
    chosen = paths(stc(root, train_frames=count, train_stride=2).train_dataloader())
    every = paths(stc(root, train_stride=2).train_dataloader())
    places = [every.index(path) for path in chosen]
    assert len(places) == count
    assert chosen == paths(stc(root, train_frames=count, train_stride=2).train_dataloader())
    steps = np.diff([*places, len(every)])
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("count", [None, 28, 5000])
def test_train_frames_can_be_all(root, count):
    assert len(paths(stc(root, train_frames=count).train_dataloader())) == 28


@pytest.mark.parametrize("num_workers", [0, 2])
def test_lightning_sees_every_frame(root, num_workers):
    data = stc(root, num_workers=num_workers)
    assert len(seen_by_lightning(data)) == 28


def test_a_long_video_is_never_in_memory(tmp_path, monkeypatch):
    write_video(tmp_path / "training/videos/01_001.avi", footage(600))
    raw: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    prepared: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    peaks = [0, 0]
    prepare = Preprocessing.image

    def watched(self, image, path):
        raw.add(image)
        out = prepare(self, image, path)
        prepared.add(out)
        peaks[:] = max(peaks[0], len(raw)), max(peaks[1], len(prepared))
        return out

    monkeypatch.setattr(Preprocessing, "image", watched)
    batches = 0
    for _ in stc(tmp_path, resize=16, batch_size=8).train_dataloader():
        batches += 1
    assert batches == 75
    assert peaks[0] <= 2  # the frame decoded and the one before it
    assert peaks[1] <= 8 + 1


@pytest.mark.skipif(not REAL_LAYOUT.is_dir(), reason=f"needs real videos at {REAL_LAYOUT}")
def test_real_videos():
    data = STC(REAL_LAYOUT, 1, test_stride=5)
    data.setup()
    assert STC.present_categories(REAL_LAYOUT) == ["01"]
    assert len(paths(data.train_dataloader())) == 480
    batches = list(data.test_dataloader())
    labels = torch.cat([batch["label"] for batch in batches])
    masks = torch.cat([batch["mask"] for batch in batches])
    assert len(labels) == 20
    assert torch.equal(masks.any(dim=(1, 2)).long(), labels)


@pytest.mark.skipif(not REAL_MASKS.is_dir(), reason=f"needs STC's frame masks at {REAL_MASKS}")
def test_real_names_and_lengths(tmp_path):
    (picture,) = write_frames(tmp_path, footage(1)).glob("*.jpg")
    for path in REAL_MASKS.glob("*.npy"):
        (tmp_path / "training/frames" / path.stem).mkdir(parents=True)
    assert STC.present_categories(tmp_path) == list(STC.known_categories[:12])
    for name in ("09_0057", "11_0176"):  # the scenes of one test video
        labels = np.load(REAL_MASKS / f"{name}.npy")
        save_masks(tmp_path, name, labels[:, None, None])
        (tmp_path / "testing/frames" / name).mkdir(parents=True)
        for number in range(len(labels)):
            (tmp_path / f"testing/frames/{name}/{number:03}.jpg").symlink_to(picture)
        (clip,) = stc(tmp_path, scene=int(name[:2])).test_clips
        assert np.array_equal(clip.annotations.labels, labels)
