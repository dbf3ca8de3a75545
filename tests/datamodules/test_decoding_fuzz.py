"""Images and masks of any format, mode, depth, orientation and alpha, whole and damaged."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ImageError, read_image, read_mask
from image_files import as_seen

INPUTS = int(os.environ.get("FUZZ_INPUTS", "150"))
"""Of each test; a run of thousands is for whoever changes the decoder."""

FORMATS = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "bmp": ("1", "L", "P", "RGB"),
    "webp": ("RGB", "RGBA"),
    "jpeg": ("L", "RGB", "CMYK"),
    "gif": ("L", "P"),
}
LOSSLESS = {"png", "tiff", "bmp", "gif", "webp"}


def drawn(rng: np.random.Generator, mode: str, bits: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) of a mode, with or without much variety."""
    height, width = rng.integers(1, 24, 2)
    bands = {"LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}.get(mode)
    shape = (height, width, bands) if bands else (height, width)
    top = 2**bits if mode.startswith("I") else 2 if mode == "1" else 256
    pixels = rng.integers(0, rng.choice([1, 2, top]), shape, endpoint=False)
    if mode in ("LA", "RGBA") and rng.random() < 0.5:
        pixels[..., -1] = rng.choice([0, 51, 255])
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode, np.uint8)
    return pixels.astype(kind)


def image_of(pixels: np.ndarray, mode: str) -> Image.Image:
    if mode == "1":
        return Image.fromarray(pixels * 255).convert("1")
    if mode == "CMYK":
        return Image.frombytes("CMYK", (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([value for i in range(256) for value in (i, 255 - i, i // 2)])
    return image


def expected_rgb(pixels: np.ndarray, mode: str, bits: int) -> np.ndarray:
    """The oracle, in float: (H, W, 3)."""
    values = pixels.astype(float)
    if mode.startswith("I"):
        values = np.minimum(values / (2**bits - 1), 1) * 255
    if mode == "1":
        values = values * 255
    if mode == "P":
        values = np.stack([values, 255 - values, values // 2], axis=-1)
    if mode == "CMYK":
        values = (255 - values[..., :3]) * (255 - values[..., 3:]) / 255
    if mode in ("LA", "RGBA"):
        alpha = values[..., -1:] / 255
        if alpha.min() < alpha.max():
            values = values * alpha + 255 * (1 - alpha)
        values = values[..., :-1]
    values = values if values.ndim == 3 else values[..., None]
    return np.broadcast_to(values, (*values.shape[:2], 3))


def expected_mask(pixels: np.ndarray, mode: str) -> np.ndarray:
    """The oracle: bool (H, W)."""
    values = pixels.astype(float)
    if mode == "P":
        return expected_rgb(pixels, mode, 8).any(axis=-1)
    if mode in ("LA", "RGBA"):
        alpha, colours = values[..., -1], values[..., :-1]
        one_colour = len(np.unique(colours.reshape(-1, colours.shape[-1]), axis=0)) == 1
        values = alpha if one_colour and len(np.unique(alpha)) > 1 else colours
    values = values if values.ndim == 2 else values.max(axis=-1)
    shades = np.unique(values)
    if len(shades) > 2 and shades[-1] >= 32:
        return values >= (shades[0] + shades[-1]) / 2
    return values != 0


def saved(rng: np.random.Generator, path: Path) -> tuple[Path, np.ndarray, str, int, int | None]:
    """A random file: its path, pixels, mode, bits and orientation."""
    kind = str(rng.choice(list(FORMATS)))
    mode = str(rng.choice(FORMATS[kind]))
    bits = int(rng.integers(8, 17))
    pixels = drawn(rng, mode, bits)
    options = {"webp": {"lossless": True, "exact": True}}.get(kind, {})
    turn = None
    if kind in ("png", "tiff", "webp", "jpeg") and rng.random() < 0.7:
        turn = int(rng.integers(0, 10))
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    path = path.with_suffix(f".{kind}")
    image_of(pixels, mode).save(path, **options)
    return path, pixels, mode, bits, turn


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_file_is_read_as_it_is_seen(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number in range(INPUTS // 4):
        path, pixels, mode, bits, turn = saved(rng, tmp_path / str(number))
        if mode == "F":
            with pytest.raises(ImageError, match="floats"):
                read_image(path, bits)
            continue
        image = read_image(path, bits)
        expected = as_seen(expected_rgb(pixels, mode, bits), turn)
        assert image.shape == (3, *expected.shape[:2]), (path, mode, turn)
        if path.suffix.removeprefix(".") in LOSSLESS:
            error = np.abs(image.permute(1, 2, 0).numpy() - expected).max()
            assert error <= 1, (path, mode, bits, turn, error)


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_mask_is_read_as_it_is_seen(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number in range(INPUTS // 4):
        path, pixels, mode, _, turn = saved(rng, tmp_path / str(number))
        if path.suffix not in (".png", ".tiff", ".bmp", ".webp") or mode == "CMYK":
            continue
        expected = as_seen(expected_mask(pixels, mode), turn)
        assert np.array_equal(read_mask(path), expected), (path, mode, turn)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_file_is_read_or_named_in_one_line(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for number in range(INPUTS // 4):
        path, *_ = saved(rng, tmp_path / str(number))
        path.write_bytes(damaged(rng, path.read_bytes()))
        for read, kind in ((read_image, torch.uint8), (read_mask, torch.bool)):
            found = outcome(read, path)
            assert found == kind or re.fullmatch(rf"{re.escape(str(path))}: .+", str(found))


def damaged(rng: np.random.Generator, data: bytes) -> bytes:
    """With some bytes changed, often near its beginning, and perhaps cut off."""
    changed = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(len(data), size=rng.integers(1, 8))
    places = np.where(rng.random(len(places)) < 0.5, places % 200 % len(data), places)
    changed[places] = rng.integers(256, size=len(places))
    return changed.tobytes()[: None if rng.random() < 0.7 else rng.integers(len(data))]


def outcome(read: Callable[[Path], torch.Tensor], path: Path) -> torch.dtype | str:
    """What kind of pixels are read, or why none are."""
    try:
        return read(path).dtype
    except ImageError as error:
        return str(error)
