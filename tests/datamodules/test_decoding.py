"""What files say of their pixels beside the pixels: alpha, depth, orientation, pages, size."""

import logging
import re
import struct
from pathlib import Path
from traceback import clear_frames

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules import Folder, ImageError, Loading, MVTec, Preprocessing, read_image, read_mask
from datamodules.decoding import largest_value
from datamodules.loading import ImageDataset
from datamodules.ped2 import UCSDPed2
from image_files import as_seen, colour, gradient, save_bmp_with_alpha, save_png_16_bit, save_tiff
from trees import mvtec_tree

GREY = np.arange(1, 13, dtype=np.uint8).reshape(3, 4) * 20


def test_rgb_is_read_exactly(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(gradient()).permute(2, 0, 1))


def test_grey_is_replicated(tmp_path):
    Image.new("L", (4, 3), 77).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 3, 4)
    assert colour(image) == [77, 77, 77]


def test_palette_is_resolved_to_its_colours(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "a.png")
    assert colour(read_image(tmp_path / "a.png")) == [10, 200, 30]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])], ids=["index", "alpha table"])
def test_transparent_palette_entry_becomes_white(tmp_path, transparency):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=transparency)
    assert read_image(tmp_path / "a.png")[:, 0, 0].tolist() == [0, 0, 0]
    assert colour(read_image(tmp_path / "a.png")[:, 1:]) == [255, 255, 255]


@pytest.mark.parametrize(
    ("mode", "fill"), [("RGBA", (200, 200, 200, 51)), ("LA", (200, 51))], ids=["RGBA", "LA"]
)
def test_transparency_is_laid_over_white(tmp_path, mode, fill):
    image = Image.new(mode, (4, 4), fill)
    image.putpixel((0, 0), (*fill[:-1], 255))
    image.save(tmp_path / "a.png")
    # 200 at opacity 51/255 over white: 0.2 * 200 + 0.8 * 255
    assert colour(read_image(tmp_path / "a.png")[:, 1:]) == [244, 244, 244]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_not_clipped_nor_stretched(tmp_path, suffix):
    values = np.array([[0, 257], [1000, 30000]], dtype=np.uint16)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(values).save(path)
    assert read_image(path)[0].tolist() == [
        [0, 1],
        [4, 117],
    ]  # 1000 / 257 = 3.9, 30000 / 257 = 116.7


def test_big_endian_16_bit_tiff_reads_like_little_endian(tmp_path):
    image = Image.new("I;16B", (2, 2), 30000)
    image.save(tmp_path / "a.tif")
    assert colour(read_image(tmp_path / "a.tif")) == [117, 117, 117]


def test_16_bit_rgb_is_scaled(tmp_path):
    save_png_16_bit(tmp_path / "a.png", np.full((2, 2, 3), 30000))
    assert colour(read_image(tmp_path / "a.png")) == [117, 117, 117]


def test_32_bit_integers_within_16_bit_are_16_bit(tmp_path):
    Image.fromarray(np.full((2, 2), 65535, dtype=np.int32)).save(tmp_path / "a.tif")
    assert colour(read_image(tmp_path / "a.tif")) == [255, 255, 255]


@pytest.mark.parametrize(
    ("dtype", "reason"), [(np.int32, "exceed 16 bit"), (np.float32, "are floats")]
)
def test_pixels_without_a_defined_white_are_refused(tmp_path, dtype, reason):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((2, 2), 70000, dtype=dtype)).save(path)
    with pytest.raises(ImageError, match=f"{re.escape(str(path))}: .*{reason}"):
        read_image(path)


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert colour(read_image(tmp_path / "a.tif")) == [255, 0, 0]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show the stored image rotated clockwise
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(gradient(), k=-1).copy()
    assert torch.equal(read_image(tmp_path / "a.png"), torch.from_numpy(expected).permute(2, 0, 1))


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match=r"/none\.png: .*No such file"):
        read_image(tmp_path / "none.png")


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageError, match=r"/a\.png: the file is empty \(0 bytes\)$"):
        read_image(tmp_path / "a.png")


def test_text_file_named_png(tmp_path):
    (tmp_path / "a.png").write_text("not pixels")
    with pytest.raises(ImageError, match=r"/a\.png: not an image$"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_truncated_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ImageError, match=rf"/a\{suffix}: (cannot be read as an image: .|not an)"):
        read_image(path)


def test_error_in_a_worker_is_one_clean_line(tmp_path):
    (tmp_path / "a.png").touch()
    loader = DataLoader(ImageDataset([tmp_path / "a.png"], Preprocessing()), num_workers=1)
    with pytest.raises(ImageError) as caught:
        next(iter(loader))
    assert str(caught.value) == f"{tmp_path / 'a.png'}: the file is empty (0 bytes)"
    clear_frames(caught.tb)  # torch's re-raise is a reference cycle: it would keep the worker


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_any_pixel_of_a_mask_that_is_not_black_is_anomalous(tmp_path, mode):
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[1, 2] = expected[3, 4] = True
    values = expected.numpy()
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))  # 1 of 65535
    elif mode == "P":
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette([0, 0, 0, 128, 0, 0])
    else:
        image = Image.fromarray(values.astype(np.uint8) * 255).convert(mode)
    image.save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.dtype == torch.bool
    assert torch.equal(mask, expected)


def test_a_faint_mask_value_counts(tmp_path):
    Image.new("L", (2, 2), 1).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").all()


LOSSLESS = {".webp": {"lossless": True, "exact": True}}


@pytest.mark.parametrize("alpha", [0, 51])
@pytest.mark.parametrize("suffix", [".bmp", ".png", ".tif", ".webp"])
def test_alpha_that_is_the_same_everywhere_is_ignored(tmp_path, caplog, suffix, alpha):
    rgba = np.stack([GREY, GREY // 2, GREY // 4, np.full_like(GREY, alpha)], axis=-1)
    path = tmp_path / f"a{suffix}"
    if suffix == ".bmp":
        save_bmp_with_alpha(path, rgba)
    else:
        Image.fromarray(rgba).save(path, **LOSSLESS.get(suffix, {}))
    assert torch.equal(read_image(path), torch.from_numpy(rgba[..., :3]).permute(2, 0, 1))
    assert f"{path}: is equally transparent everywhere, which is ignored" in caplog.text


def test_opaque_alpha_is_not_worth_a_word(tmp_path, caplog):
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(tmp_path / "a.png")
    read_image(tmp_path / "a.png")
    assert not caplog.records


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_ignored_is_logged_once_a_data_set(tmp_path, caplog, workers):
    folder = mvtec_tree(tmp_path)
    for path in folder.glob("t*/*/*.png"):
        image = Image.open(path)
        image.putalpha(0)
        image.save(path)
    data = MVTec(tmp_path, "widget", Preprocessing(64, None), Loading(1, workers))
    for loader in (data.train_dataloader(), data.test_dataloader()):
        caplog.clear()
        assert all("notices" not in batch for batch in loader)
        assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
            "is equally transparent everywhere, which is ignored"
        ]
    caplog.clear()
    data.picture(str(data.test_samples[0].path))
    assert not caplog.records


def save_deep(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


@pytest.mark.parametrize(
    ("bits", "values", "read"),
    [
        (None, [0, 257, 30000, 65535], [0, 1, 117, 255]),
        (16, [0, 257, 30000, 65535], [0, 1, 117, 255]),
        (12, [0, 8, 9, 4095], [0, 0, 1, 255]),  # 255 * 8 / 4095 = 0.498
        (10, [0, 512, 1023, 1024], [0, 128, 255, 255]),
        (8, [0, 1, 255, 4000], [0, 1, 255, 255]),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_is_scaled_by_its_bits(tmp_path, suffix, bits, values, read):
    path = save_deep(tmp_path / f"a{suffix}", np.array([values]))
    assert read_image(path, bits)[0].tolist() == [read]


def test_values_beyond_the_bits_are_named(tmp_path, caplog):
    read_image(save_deep(tmp_path / "a.png", np.full((2, 2), 4096)), 12)
    assert "a.png: exceeds preprocessing.bits=12, so it is clipped" in caplog.text


def test_the_depth_that_a_tiff_declares_is_its_white(tmp_path):
    pairs = (0, 9), (2048, 4095)
    packed = [byte for a, b in pairs for byte in (a >> 4, (a & 15) << 4 | b >> 8, b & 255)]
    path = save_tiff(tmp_path / "a.tif", (2, 2, 1), bytes(packed), 12)
    assert read_image(path)[0].tolist() == [[0, 1], [128, 255]]
    assert read_image(path, 13)[0].max() == 127


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colours_are_scaled_by_their_bits(tmp_path, suffix):
    values = np.random.default_rng(0).integers(4096, size=(5, 7, 3))
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        save_png_16_bit(path, values)
    else:
        save_tiff(path, values.shape, values.astype("<u2").tobytes(), 16)
    expected = torch.from_numpy((values / 4095 * 255).round()).permute(2, 0, 1)
    assert torch.equal(read_image(path, 12).double(), expected)
    assert torch.equal(read_image(path).long(), torch.from_numpy(values >> 8).permute(2, 0, 1))
    assert largest_value(path) == values.max() | 255


@pytest.mark.parametrize(
    ("largest", "bits", "workers"),
    [(200, 8, 0), (300, 10, 0), (1023, 10, 2), (1024, 12, 0), (4095, 12, 0), (65535, 16, 0)],
)
def test_bits_are_the_least_that_all_training_images_fit_in(
    tmp_path, caplog, largest, bits, workers
):
    caplog.set_level(logging.INFO)
    for number, part in enumerate((0.5, 1, 0.1)):
        save_deep(tmp_path / f"good/{number}.png", np.full((8, 8), part * largest))
    data = Folder(str(tmp_path / "good"), loading=Loading(num_workers=workers))
    assert data.preprocessing.bits is None
    batch = next(iter(data.train_dataloader()))
    assert data.preprocessing.bits == bits
    assert batch["image"][1].max() == round(255 * largest / (2**bits - 1))
    assert [record.getMessage() for record in caplog.records] == [
        f"16-bit images are read by {bits} bits, which all training images fit in"
    ]


def test_bits_given_are_not_looked_for(tmp_path):
    save_deep(tmp_path / "good/0.png", np.full((8, 8), 1000))
    data = Folder(str(tmp_path / "good"), preprocessing=Preprocessing(8, None, bits=12))
    assert next(iter(data.train_dataloader()))["image"].max() == round(255 * 1000 / 4095)


def test_8_bit_images_are_not_searched(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr("datamodules.labelled.largest_value", lambda path: looked.append(path) or 0)
    data = MVTec(mvtec_tree(tmp_path).parent, "widget")
    data.train_dataloader()
    assert looked == data.train_paths[:1]
    assert data.preprocessing.bits == 16


def test_frames_of_a_camera_have_bits_too(tmp_path):
    for number in range(4):
        save_deep(tmp_path / f"Train/Train001/{number}.tif", np.full((8, 8), 1000))
    data = UCSDPed2(tmp_path, preprocessing=Preprocessing(8, None), loading=Loading(num_workers=0))
    assert next(iter(data.train_dataloader()))["image"].max() == round(255 * 1000 / 1023)


@pytest.mark.parametrize("bits", [7, 17, 12.5, "12", True])
def test_impossible_bits(bits):
    with pytest.raises(ValueError, match=f"bits must be 8 to 16, or None, got {bits!r}"):
        Preprocessing(bits=bits)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path, suffix, orientation):
    pixels = np.stack([GREY, GREY // 2, GREY // 4], axis=-1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", exif=exif, **LOSSLESS.get(suffix, {}))
    expected = torch.from_numpy(as_seen(pixels, orientation).copy()).permute(2, 0, 1)
    assert torch.equal(read_image(tmp_path / f"a{suffix}"), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK", "I;16", "RGBA"])
def test_a_turned_tiff_that_pillow_would_map_into_memory(tmp_path, mode):
    """Pillow 12 and 13 take the sides of such a file for those of the turned image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new(mode, (5, 3))
    image.putpixel((4, 0), {"L": 255, "I;16": 65535}.get(mode, (255, 255, 255, 255)))
    image.save(tmp_path / "a.tif", exif=exif)
    upright = Image.new(mode, (3, 5))
    upright.putpixel((2, 4), {"L": 255, "I;16": 65535}.get(mode, (255, 255, 255, 255)))
    upright.save(tmp_path / "b.tif")
    assert torch.equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif"))


EXIF = b"Exif\0\0II*\0\x08\0\0\0"
UPSIDE_DOWN = struct.pack("<HHII", 0x0112, 3, 1, 3)
WIDTH_AS_TEXT = struct.pack("<HHI4s", 0x0100, 2, 4, b"abc\0")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    ("exif", "orientation"),
    [
        (EXIF + struct.pack("<H", 2) + UPSIDE_DOWN + WIDTH_AS_TEXT + bytes(4), 3),
        (EXIF + struct.pack("<H", 2) + WIDTH_AS_TEXT[:7], None),
        (EXIF[:-4] + b"\xff\xff\xff\xff", None),
        (b"Exif\0\0garbage", None),
    ],
    ids=["text for a number", "cut off", "nowhere", "garbage"],
)
def test_damaged_exif_spoils_no_image(tmp_path, caplog, suffix, exif, orientation):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GREY).convert("RGB").save(path, exif=exif)
    found = read_image(path)
    Image.fromarray(GREY).convert("RGB").save(path)
    expected = as_seen(read_image(path).permute(1, 2, 0).numpy(), orientation)
    assert np.array_equal(found.permute(1, 2, 0), expected)
    assert ("damaged EXIF data, which are ignored" in caplog.text) == (orientation is None)


@pytest.mark.parametrize(
    ("suffix", "sizes", "read"),
    [
        (".tif", [(4, 3), (8, 6), (4, 6)], 1),  # a thumbnail, the image, a reduced one
        (".tif", [(8, 6), (8, 6)], 0),
        (".tif", [(4, 3)], 0),
        (".webp", [(8, 6)] * 3, 0),
        (".png", [(8, 6)] * 3, 0),
        (".gif", [(8, 6)] * 3, 0),
    ],
    ids=str,
)
def test_of_several_pages_the_largest_is_read(tmp_path, caplog, suffix, sizes, read):
    pages = [Image.new("L", size, 40 + 60 * number) for number, size in enumerate(sizes)]
    path = tmp_path / f"a{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    image = read_image(path)
    assert image.shape == (3, *sizes[read][::-1])
    assert (image.int() - 40 - 60 * read).abs().max() <= 2
    notice = f"{path}: has {len(sizes)} pages, of which only the largest (or first) is read"
    assert [record.getMessage() for record in caplog.records] == [notice] * (len(sizes) > 1)


def test_a_damaged_page_spoils_none_before_it(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(GREY).save(path)
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    end = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    data[end : end + 4] = struct.pack("<I", len(data) - 3)
    path.write_bytes(data)
    assert torch.equal(read_image(path)[0], torch.from_numpy(GREY))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_large_images_of_the_users_are_read(tmp_path, monkeypatch, recwarn, suffix):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.fromarray(GREY).save(tmp_path / f"a{suffix}")
    Image.fromarray(np.tile(GREY, 2)).save(tmp_path / f"b{suffix}")  # warned of, and refused
    assert read_image(tmp_path / f"a{suffix}").shape == (3, 3, 4)
    assert read_image(tmp_path / f"b{suffix}").shape == (3, 3, 8)
    assert not recwarn.list
    assert Image.MAX_IMAGE_PIXELS == 10  # of the rest of a program


def test_images_for_which_there_is_no_memory_are_refused(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.bmp")
    data = (tmp_path / "a.bmp").read_bytes()
    (tmp_path / "a.bmp").write_bytes(data[:18] + struct.pack("<ii", 40000, 30000) + data[26:])
    expected = (
        r"/a\.bmp: cannot be read as an image: 40000 x 30000 px take 3\.6 GB of memory, more than"
        r" the 3\.0 GB allowed: cut it into parts$"
    )
    with pytest.raises(ImageError, match=expected):
        read_image(tmp_path / "a.bmp")


def test_an_error_without_words_is_named(tmp_path, monkeypatch):
    Image.fromarray(GREY).save(tmp_path / "a.png")

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ImageError, match=r"cannot be read as an image: MemoryError"):
        read_image(tmp_path / "a.png")
