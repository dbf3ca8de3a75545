from pathlib import Path

import pytest
import torch

from datamodules import ImageFiles, Loading, Preprocessing, find_inputs
from datamodules.errors import ImageError
from datamodules.files import VideoFrames
from videos import SIZE, footage, write_video


@pytest.mark.parametrize("workers", [0, 2])
def test_prediction_batches(folder, workers):
    for name in ("0.png", "c.png", "d.png", "e.png"):
        (folder / name).touch()
    paths = list(find_inputs(folder).files)
    data = ImageFiles(
        paths, Preprocessing(32, 28, resize_mode="shorter_side"), Loading(3, num_workers=workers)
    )
    first, second, last = data.predict_dataloader()
    assert first["image"].shape == (2, 3, 28, 28)
    assert first["image"].dtype == torch.uint8
    assert first["path"] == [str(folder / name) for name in ("[1].png", "a.jpg")]
    assert first["size"].tolist() == [[40, 60]] * 2
    expected = [[2.5, 12.5, 37.5, 47.5]] * 2  # 28 of 32 rows of 40 px, in the middle of 40 x 60
    torch.testing.assert_close(first["window"], torch.tensor(expected))
    assert first["skipped"] == [(str(folder / "0.png"), "the file is empty (0 bytes)")]
    assert second["path"] == [str(folder / "b.png")]
    assert len(second["skipped"]) == 2
    assert last["path"] == [str(folder / "deep/er/c.PNG")]
    assert [path for path, _ in last["skipped"]] == [str(folder / "e.png")]


def test_a_batch_of_which_nothing_can_be_read(tmp_path):
    data = ImageFiles([tmp_path / "none.png"], loading=Loading(num_workers=0))
    (batch,) = data.predict_dataloader()
    assert batch.pop("image").shape == (0, 3, *data.image_size)
    assert batch == {
        "path": [],
        "skipped": [
            (str(tmp_path / "none.png"), "cannot be read as an image: No such file or directory")
        ],
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_frames_of_a_video(tmp_path, workers):
    video = write_video(tmp_path / "clip.avi", footage(8))
    data = VideoFrames(video, 3, Preprocessing(SIZE, None), Loading(2, num_workers=workers))
    data.setup()
    first, last = data.predict_dataloader()
    assert first["path"] + last["path"] == [f"{video}#0", f"{video}#3", f"{video}#6"]
    assert last["size"].tolist() == [list(SIZE)]
    assert last["window"].tolist() == [[0, 0, *SIZE]]
    images = torch.cat([first["image"], last["image"]]).permute(0, 2, 3, 1)
    assert torch.equal(images, torch.from_numpy(footage(8)[::3]))


@pytest.mark.parametrize("stride", [0, -1, 1.5])
def test_stride_is_a_positive_integer(stride):
    with pytest.raises(ValueError, match=f"^stride must be a positive integer, got {stride}$"):
        VideoFrames(Path("clip.avi"), stride)


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "clip.avi").write_text("no video")
    with pytest.raises(ImageError, match=r"clip\.avi: cannot be read as a video"):
        VideoFrames(tmp_path / "clip.avi").setup()
