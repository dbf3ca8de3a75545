"""Masks as annotation tools and cameras leave them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from datamodules import Loading, MVTec, Preprocessing, read_mask
from datamodules.errors import DatasetError
from datamodules.samples import LabelledDataset, Sample
from image_files import as_seen
from trees import mvtec_tree

SPOTS = np.zeros((24, 40), dtype=bool)
SPOTS[2:7, 3:9] = SPOTS[12:22, 20:36] = True
MANY = "is a mask of many shades: those above half of their range count"


def save(path: Path, pixels: np.ndarray, orientation: int | None = None, **options: object) -> Path:
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 0, 0)], ids=["black", "red"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_a_mask_of_one_colour_is_in_its_alpha(tmp_path, suffix, colour):
    rgba = np.dstack([np.full((*SPOTS.shape, 3), colour), 255 * SPOTS]).astype(np.uint8)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    assert np.array_equal(read_mask(save(tmp_path / f"a{suffix}", rgba, **options)), SPOTS)


def test_a_grey_mask_of_one_shade_is_in_its_alpha(tmp_path):
    grey_alpha = np.stack([np.zeros(SPOTS.shape), 255 * SPOTS], axis=-1).astype(np.uint8)
    assert np.array_equal(read_mask(save(tmp_path / "a.png", grey_alpha)), SPOTS)


def test_a_mask_of_two_colours_is_in_them(tmp_path):
    rgba = np.dstack([255 * SPOTS] * 3 + [np.tile([0, 255], (24, 20))]).astype(np.uint8)
    assert np.array_equal(read_mask(save(tmp_path / "a.png", rgba)), SPOTS)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_jpeg_mask_has_the_regions_of_a_png(tmp_path, caplog, mode, quality):
    Image.fromarray(SPOTS).convert(mode).save(tmp_path / "a.jpg", quality=quality)
    mask = read_mask(tmp_path / "a.jpg").numpy()
    assert label(mask)[1] == 2
    assert (mask != SPOTS).mean() < 0.01
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 'a.jpg'}: {MANY}"]


def test_a_smooth_outline_is_cut_at_half(tmp_path):
    whole = np.kron(SPOTS, np.ones((4, 4)))
    smooth = Image.fromarray((200 * whole).astype(np.uint8)).resize((40, 24), Image.Resampling.BOX)
    smooth.putpixel((0, 0), 99)
    smooth.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png"), SPOTS)


def test_numbers_of_kinds_are_no_shades(tmp_path, caplog):
    kinds = np.where(SPOTS, np.arange(40) % 7 + 1, 0).astype(np.uint8)  # as VisA has them
    assert np.array_equal(read_mask(save(tmp_path / "a.png", kinds)), SPOTS)
    assert not caplog.records


@pytest.mark.parametrize(("value", "marked"), [(0, "no pixel"), (255, "all pixels")])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_mask_that_says_nothing_is_named(tmp_path, caplog, value, marked, workers):
    folder = mvtec_tree(tmp_path)
    for path in folder.glob("ground_truth/spot/*.png"):
        save(path, np.full((64, 64), value, dtype=np.uint8))
    data = MVTec(tmp_path, "widget", Preprocessing(64, None), Loading(1, workers))
    assert len(list(data.test_dataloader())) == 4
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"{folder}/ground_truth/spot/{i:03}_mask.png: {marked} marked as anomalous of"
        f" {folder}/test/spot/{i:03}.png"
        for i in range(2)
    ]


def spotted(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Stored pixels of an image, uint8 (H, W, 3), whose spot is in a corner; and its mask."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[1:4, 2:5] = 255
    return np.dstack([mask] * 3), mask


def pair_of(image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where an item's image is bright, and its mask, both (H, W)."""
    preparation = Preprocessing(None, 12, resolution="original")
    (item,) = LabelledDataset([Sample(image, "spot", (mask,))], preparation)
    bright = Preprocessing(None, 12).mask(item["mask"])
    return item["image"][0].numpy() > 127, bright.numpy()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("own", [None, *range(1, 9)])
@pytest.mark.parametrize("size", [(12, 20), (12, 12)], ids=["landscape", "square"])
def test_a_mask_is_turned_with_its_image_or_by_itself(tmp_path, suffix, size, own):
    stored, mask = spotted(size)
    for orientation in range(1, 9):
        image = save(tmp_path / f"image{suffix}", stored, orientation)
        if own:  # so stored that it lies on the image once each is turned
            seen = as_seen(spotted(size)[1], orientation)
            mask = next(m for m in all_turns(seen) if np.array_equal(as_seen(m, own), seen))
        bright, marked = pair_of(image, save(tmp_path / f"mask{suffix}", mask, own))
        assert bright.any()
        assert np.array_equal(bright, marked)


def all_turns(pixels: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(as_seen(pixels, orientation)) for orientation in range(1, 9)]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_whose_size_fits_only_the_turned_image_is_of_that(tmp_path, orientation):
    stored, mask = spotted((12, 20))
    image = save(tmp_path / "image.jpg", stored, orientation, quality=95)
    upright = save(tmp_path / "mask.png", np.ascontiguousarray(as_seen(mask, orientation)))
    bright, marked = pair_of(image, upright)
    assert bright.any()
    assert np.array_equal(bright, marked)


def test_a_mask_of_neither_size_is_named_with_its_image(tmp_path):
    stored, mask = spotted((12, 20))
    image = save(tmp_path / "image.png", stored, 6)
    expected = r"/mask\.png: the mask is 12 x 19 px, its image .*/image\.png is 20 x 12 px"
    with pytest.raises(DatasetError, match=expected):
        pair_of(image, save(tmp_path / "mask.png", mask[:, 1:].copy()))
