import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules import ImageError, Preprocessing, RandomRotationCrop
from datamodules.loading import ImageDataset
from datamodules.preprocessing import PADDING
from image_files import gradient


def test_preprocessing_equals_pillows_bicubic_to_one_grey_level():
    # Square, so that both go row-wise first: each rounds and clips between its two passes.
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    pillow = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(pillow)[16:240, 16:240]).permute(2, 0, 1)
    image = Preprocessing().image(torch.from_numpy(pixels).permute(2, 0, 1))
    assert image.dtype == torch.uint8
    torch.testing.assert_close(image, expected, rtol=0, atol=1)


def test_mask_stays_on_its_image():
    image = torch.zeros(3, 100, 140, dtype=torch.uint8)
    image[:, 20:50, 70:110] = 255
    preprocessing = Preprocessing(resize=(64, 80), crop=(50, 60))
    mask = preprocessing.mask(image[0] > 0)
    difference = mask != (preprocessing.image(image)[0] > 127)
    assert mask.dtype == torch.bool
    assert mask.any()
    assert difference.float().mean() < 0.02  # a pixel along the outline at most


@pytest.mark.parametrize(
    ("resize", "crop", "size"),
    [
        (256, 224, (224, 224)),
        (256, None, (256, 256)),
        ([96, 128], None, (96, 128)),
        ([96, 128], [32, 64], (32, 64)),
        (None, 64, (64, 64)),
    ],
)
def test_image_size_is_what_comes_out(resize, crop, size):
    preprocessing = Preprocessing(resize, crop)
    assert preprocessing.image_size == size
    assert preprocessing.image(torch.zeros(3, 100, 130, dtype=torch.uint8)).shape == (3, *size)
    assert preprocessing.mask(torch.zeros(100, 130, dtype=torch.bool)).shape == size


def test_without_resize_pixels_are_kept():
    image = torch.from_numpy(gradient(40, 60)).permute(2, 0, 1)
    assert torch.equal(Preprocessing(None, 20).image(image), image[:, 10:30, 20:40])


def test_crop_larger_than_resize():
    with pytest.raises(ValueError, match="crop 300 x 200 px is larger than resize 256 x 256 px"):
        Preprocessing(256, (300, 200))


def test_neither_resize_nor_crop():
    with pytest.raises(ValueError, match="resize and crop are both None: give one"):
        Preprocessing(None, None)


@pytest.mark.parametrize("size", [0, -1, [224], [224, 0], 224.5, "224"])
def test_impossible_size(size):
    expected = rf"crop must be one or two \(H, W\) positive integers, got {re.escape(repr(size))}"
    with pytest.raises(ValueError, match=expected):
        Preprocessing(256, size)


def test_image_smaller_than_the_crop(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    dataset = ImageDataset([tmp_path / "a.png"], Preprocessing(None, 64))
    with pytest.raises(ImageError, match=r"/a\.png: 40 x 60 px is smaller than the crop, 64 x 64"):
        dataset[0]


@pytest.mark.parametrize(
    ("resize", "crop", "size", "window"),
    [
        (256, 224, (900, 900), (56.25, 56.25, 843.75, 843.75)),
        (256, None, (480, 856), (0, 0, 480, 856)),
        (None, 30, (41, 60), (6, 15, 36, 45)),  # round(5.5) is 6, as torchvision crops
    ],
)
def test_window_is_what_the_crop_shows(resize, crop, size, window):
    prepared = Preprocessing(resize, crop)
    assert prepared.window(*size).tolist() == pytest.approx(window)


def test_window_marks_the_pixels_of_a_crop():
    image = torch.randint(0, 255, (3, 41, 60), dtype=torch.uint8)
    prepared = Preprocessing(None, 30)
    top, left, bottom, right = prepared.window(41, 60).int().tolist()
    assert torch.equal(prepared.image(image), image[:, top:bottom, left:right])


def test_a_rotated_image_has_no_window():
    with pytest.raises(ValueError, match="no upright box"):
        Preprocessing(256, 224, rotation_crop=RandomRotationCrop()).window(900, 900)


def coordinates(height: int, width: int) -> Tensor:
    """An image whose red is x and whose green is y, uint8 (3, H, W)."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y, torch.zeros_like(x)]).to(torch.uint8)


MODES = [
    {"resize": 64, "crop": None},
    {"resize": [48, 96], "crop": [40, 77]},
    {"resize": 64, "crop": None, "resize_mode": "letterbox"},
    {"resize": [63, 96], "crop": None, "resize_mode": "letterbox"},
    {"resize": [63, 96], "crop": [60, 50], "resize_mode": "letterbox"},
    {"resize": 64, "crop": None, "resize_mode": "shorter_side"},
    {"resize": [48, 96], "crop": None, "resize_mode": "shorter_side"},
    {"resize": 64, "crop": [51, 40], "resize_mode": "shorter_side"},
    {"resize": None, "crop": [16, 21]},
]


@pytest.mark.parametrize("size", [(200, 120), (90, 250), (31, 47)], ids=str)
@pytest.mark.parametrize(
    ("mode", "roi"),
    [
        *((mode, None) for mode in MODES),
        *((mode, [5, 12, 30, 44]) for mode in MODES if mode.get("resize_mode") != "letterbox"),
        *((mode, [0, 0, 24, 40]) for mode in MODES if mode.get("resize_mode") != "letterbox"),
    ],
    ids=str,
)
def test_window_leads_back_to_the_pixels_of_the_original(mode, size, roi):
    prepared = Preprocessing(**mode, roi=roi)
    image = prepared.image(coordinates(*size)).double()
    assert image.shape == (3, *prepared.image_size)
    top, left, bottom, right = roi or (0, 0, *size)
    low, high = prepared.window(*size).reshape(2, 2).double()
    for side, channel, (first, last) in ((0, 1, (top, bottom)), (1, 0, (left, right))):
        step = (high[side] - low[side]) / image.shape[1 + side]
        expected = low[side] + (torch.arange(image.shape[1 + side]) + 0.5) * step
        padded = (expected < first) | (expected > last)
        pixels = image if side == 0 else image.mT
        assert (pixels[:, padded] == torch.tensor(PADDING)[:, None, None]).all()
        across = pixels[2].eq(0).any(dim=0)  # there is no blue but in the padding
        found = pixels[channel][~padded][:, across]
        assert (found - (expected[~padded, None] - 0.5)).abs().max() <= 1


@pytest.mark.parametrize("size", [(200, 120), (90, 250), (31, 47)], ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_all_but_the_padding_is_unpadded(mode, size):
    prepared = Preprocessing(**mode)
    expected = prepared.mask(torch.ones(size, dtype=torch.bool))
    found = torch.zeros_like(expected)
    found[prepared.unpadded(*size)] = True
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", ["letterbox", "shorter_side"])
@pytest.mark.parametrize("size", [(300, 200), (120, 160)], ids=str)
def test_the_aspect_is_kept(mode, size):
    y, x = np.mgrid[: size[0], : size[1]]
    disc = (y - size[0] / 2) ** 2 + (x - size[1] / 2) ** 2 < 40**2
    mask = Preprocessing(96, None, resize_mode=mode).mask(torch.from_numpy(disc))
    rows, columns = torch.where(mask)
    assert abs(int(rows.max() - rows.min()) - int(columns.max() - columns.min())) <= 1


def test_letterbox_shows_all_and_shorter_side_fills_all():
    letterbox = Preprocessing(64, None, resize_mode="letterbox")
    assert letterbox.window(100, 200).tolist() == [-50, 0, 150, 200]
    assert Preprocessing(64, None, resize_mode="shorter_side").window(100, 200).tolist() == [
        *(0, 50, 100, 150)
    ]


def test_shorter_side_takes_a_crop_that_is_wider_than_it():
    prepared = Preprocessing(64, [56, 84], resize_mode="shorter_side")
    assert prepared.image(torch.zeros(3, 100, 150, dtype=torch.uint8)).shape == (3, 56, 84)
    with pytest.raises(
        ImageError, match=r"^tall\.png: 96 x 64 px is smaller than the crop, 56 x 84"
    ):
        prepared.image(torch.zeros(3, 150, 100, dtype=torch.uint8), "tall.png")


def test_only_the_roi_is_looked_at():
    image = torch.from_numpy(gradient(40, 60)).permute(2, 0, 1)
    prepared = Preprocessing(None, 20, roi=[10, 5, 30, 25])
    assert torch.equal(prepared.image(image), image[:, 10:30, 5:25])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"resize_mode": "fit"}, "resize_mode must be one of .*'letterbox'.*, got 'fit'"),
        ({"resize": None, "resize_mode": "letterbox"}, "is 'letterbox', so resize must be given"),
        ({"crop": 257, "resize_mode": "shorter_side"}, "crop 257 x 257 px is larger than resize"),
        ({"crop": [20, 257], "resize_mode": "letterbox"}, "crop 20 x 257 px is larger than resize"),
        (
            {"resize_mode": "letterbox", "rotation_crop": RandomRotationCrop()},
            "resize_mode=letterbox cannot be used with a rotation_crop",
        ),
        (
            {"resolution": "original", "rotation_crop": RandomRotationCrop()},
            "resolution=original cannot be used with a rotation_crop",
        ),
        ({"resolution": "full"}, "resolution must be one of .*'original'.*, got 'full'"),
        (
            {"roi": [0, 40, 256, 216], "resize_mode": "letterbox", "resize": [224, 256]},
            r"use stretch, with a resize such as \[224,160\]$",
        ),
        ({"roi": [0, 0, 10]}, r"roi must be top, left, bottom, right .*; got \[0, 0, 10\]"),
        ({"roi": [10, 0, 10, 10]}, "roi must be top"),
        ({"roi": [-1, 0, 10, 10]}, "roi must be top"),
        ({"roi": [0, 0, 0.5, 0.5]}, "roi must be top"),
        ({"roi": 10}, "roi must be top"),
    ],
)
def test_impossible_preparation(options, error):
    with pytest.raises(ValueError, match=error):
        Preprocessing(**options)


def test_roi_beyond_the_image():
    expected = r"^a\.png: roi \[0, 0, 30, 50\] .* reaches beyond the image, 40 x 45 px$"
    with pytest.raises(ImageError, match=expected):
        Preprocessing(roi=[0, 0, 30, 50]).image(torch.zeros(3, 40, 45, dtype=torch.uint8), "a.png")
