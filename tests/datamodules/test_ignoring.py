"""Masks of single images, by their names."""

from pathlib import Path

import pytest

from datamodules.errors import DatasetError
from datamodules.ignoring import own_masks


def files(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return [root / name for name in names]


def test_a_mask_is_named_by_folder_and_image(tmp_path: Path) -> None:
    images = files(tmp_path / "x", "test/good/0.jpg", "test/dent/0.jpg", "test/dent/1.jpg")
    folder = tmp_path / "masks"
    named, _ = files(folder, "good/0.png", "0.png")
    longer, shorter = files(folder, "test/dent/1.png", "dent/1.png")
    found = own_masks(folder, images)
    assert found == {images[0]: (named,), images[2]: (longer,)}
    assert own_masks(folder, files(tmp_path, "y/dent/1.bmp")) == {
        tmp_path / "y/dent/1.bmp": (shorter,)
    }


def test_no_mask_may_be_of_two_images(tmp_path: Path) -> None:
    images = files(tmp_path / "x", "a/good/0.jpg", "b/good/0.jpg")
    (mask,) = files(tmp_path / "masks", "good/0.png")
    with pytest.raises(DatasetError, match=f"{mask}: may be of {images[0]} or of {images[1]}"):
        own_masks(tmp_path / "masks", images)
    (longer,) = files(tmp_path / "masks", "b/good/0.png")
    assert own_masks(tmp_path / "masks", images) == {images[0]: (mask,), images[1]: (longer,)}


def test_masks_of_no_image_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = files(tmp_path / "x", "good/0.jpg")
    files(tmp_path / "masks", "0.png")
    assert own_masks(tmp_path / "masks", images) == {}
    assert f"such as {tmp_path}/masks/good/0.png" in caplog.text
