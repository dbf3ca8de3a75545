"""Prepared images kept in a folder: what is kept is what would be read, and never what is stale."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules import DataError, ImageFiles, Loading, MVTec, Preprocessing, RandomRotationCrop
from datamodules import loading as loading_module
from datamodules import samples as samples_module
from trees import mvtec_tree

PREPROCESSING = Preprocessing(64, 48)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mvtec_tree(tmp_path / "data")
    return tmp_path / "data"


def batches(root: Path, cache: Path | None, workers: int = 0, **changed: Any) -> list[Any]:
    """All batches of a fit and a test."""
    loading = Loading(3, workers, str(cache) if cache else None)
    preprocessing = changed.get("preprocessing", PREPROCESSING)
    data = MVTec(root, "widget", preprocessing=preprocessing, loading=loading)
    data.setup()
    return [*data.train_dataloader(), *data.test_dataloader()]


def assert_same(mine: list[Any], others: list[Any]) -> None:
    for one, other in zip(mine, others, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if torch.is_tensor(value):
                assert torch.equal(value, other[key]), key
            elif torch.is_tensor(value[0]):  # masks of several sizes
                assert all(map(torch.equal, value, other[key])), key
            else:
                assert value == other[key]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Images read in this process."""
    read: list[Path] = []

    def counting(original: Any) -> Any:
        def counted(path: Path, *args: Any) -> Any:
            read.append(path)
            return original(path, *args)

        return counted

    for module, name in ((loading_module, "read_image"), (samples_module, "read_oriented")):
        monkeypatch.setattr(module, name, counting(getattr(module, name)))
    return read


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "preprocessing",
    [
        PREPROCESSING,
        Preprocessing(64, 48, resolution="original"),
        Preprocessing(64, 48, rotation_crop=RandomRotationCrop(1)),
    ],
    ids=["crop", "original", "rotated"],
)
def test_later_runs_decode_nothing(
    root: Path, tmp_path: Path, reads: list[Path], workers: int, preprocessing: Preprocessing
) -> None:
    expected = batches(root, None, preprocessing=preprocessing)
    first = batches(root, tmp_path / "cache", workers, preprocessing=preprocessing)
    reads.clear()
    second = batches(root, tmp_path / "cache", preprocessing=preprocessing)
    assert reads == []
    assert_same(first, expected)
    assert_same(second, expected)


def test_what_changes_is_read_again(root: Path, tmp_path: Path, reads: list[Path]) -> None:
    cache = tmp_path / "cache"
    batches(root, cache)
    image, other = sorted(root.glob("widget/train/good/*.png"))[:2]
    mask = next(root.glob("widget/ground_truth/*/*.png"))
    Image.open(other).rotate(90).save(image)
    Image.new("L", Image.open(mask).size, 255).save(mask)
    reads.clear()
    assert_same(batches(root, cache), batches(root, None))
    changed = [image, root / "widget" / "test" / mask.parent.name / mask.name.replace("_mask", "")]
    assert reads[: len(changed)] == changed
    reads.clear()
    whole = Preprocessing(48, None)
    found = batches(root, cache, preprocessing=whole)
    assert reads
    assert_same(found, batches(root, None, preprocessing=whole))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_damage_is_read_again(root: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    expected = batches(root, cache)
    for path in cache.glob("*/*.pt"):
        kept = bytearray(path.read_bytes())
        kept[len(kept) // 2] ^= 1
        path.write_bytes({"cut": kept[:100], "flip": kept, "empty": b""}[damage])
    assert_same(batches(root, cache), expected)
    assert_same(batches(root, cache), expected)


def test_notices_are_kept(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = next(root.glob("widget/train/good/*.png"))
    Image.open(image).convert("RGBA").save(image)
    pixels = Image.open(image)
    pixels.putalpha(7)
    pixels.save(image)
    for _ in range(2):
        batches(root, tmp_path / "cache")
        assert "is equally transparent everywhere" in caplog.text
        caplog.clear()


def test_images_to_predict_on_are_kept(root: Path, tmp_path: Path) -> None:
    good = next(root.glob("widget/test/good/*.png"))
    paths = [good, tmp_path / "none.png", tmp_path / "bad.png"]
    (tmp_path / "bad.png").write_text("no image")
    data = ImageFiles(paths, PREPROCESSING, Loading(4, 0, str(tmp_path / "cache")))
    for _ in range(2):
        (batch,) = data.predict_dataloader()
        assert batch["path"] == [str(good)]
        assert [path for path, _ in batch["skipped"]] == [*map(str, paths[1:])]
    Image.open(good).save(tmp_path / "bad.png")
    (batch,) = data.predict_dataloader()
    assert batch["path"] == [str(good), str(tmp_path / "bad.png")]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_that_takes_no_files(root: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"^loading.cache=.*cache takes no files: .*cache/..'$"):
        batches(root, tmp_path / "cache", workers)
