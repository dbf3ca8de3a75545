"""Image files -> pixels as they are to be seen."""

import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datamodules.errors import ImageError
from datamodules.notices import hold_notices, notices

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called: Pillow starts other programs for some formats."""

MAX_PIXELS = 10**9
"""Of an image that is read: 3 GB as RGB, and as much again while it becomes a tensor."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From the stored pixels to the image as it is seen, by the EXIF orientation."""

UPPER_BYTE = "upper byte"
"""Key of an image's `info`: whether it has 16-bit colours, of which Pillow keeps the upper byte."""

LABELS = 32
"""A mask whose values are all below names kinds of defects, which have no order."""


def read_image(path: str | Path, bits: int | None = None, page: int | None = None) -> Tensor:
    """Read an image file as RGB, uint8 (3, H, W); see `read_oriented`."""
    return read_oriented(path, bits, page)[0]


def read_oriented(
    path: str | Path, bits: int | None = None, page: int | None = None
) -> tuple[Tensor, int | None]:
    """Read an image file as RGB, uint8 (3, H, W), turned as its EXIF orientation says.

    Grey is replicated, 16 bits are scaled by their white (never stretched image by image), a
    palette is resolved to its colours, transparency laid over white unless it is the same
    everywhere. Of several pages the largest is read. What is ignored is logged.

    Args:
        path: of the file.
        bits: the white of a 16-bit file is 2**bits - 1, and what exceeds it is clipped; None for as
            many as the file declares.
        page: number from 0 of the one to read; None for the largest.

    Returns:
        It, and the orientation, None where the file has none.

    Raises:
        ImageError: the file is missing, empty, no image, damaged, of more than `MAX_PIXELS`, or of
            a pixel type without a defined white (float, integers beyond 16 bit). Names the path
            and the reason.
    """
    with _naming(path):
        image, orientation = _decode(path, page)
        return F.pil_to_tensor(_to_rgb(image, path, bits, page)), orientation


def read_mask(
    path: str | Path, orientation: int | None = None, size: Sequence[int] | None = None
) -> Tensor:
    """Read a mask file, bool (H, W).

    Anomalous is all that is not black, or not transparent where there is but one colour. Of a mask
    of many shades, as JPEG makes them, it is what reaches half of their range.

    A mask with an EXIF orientation of its own is turned by it. One without belongs to the stored
    pixels of its image and is turned as that is, unless its size fits only the turned image.

    Args:
        path: of the file.
        orientation: of its image, as of `read_oriented`.
        size: (H, W) of its image.

    Raises:
        ImageError: see `read_oriented`.
    """
    with _naming(path):
        image, own = _decode(path)
        if own is None and orientation in TURNS:
            turned = image.transpose(TURNS[orientation])
            image = turned if turned.size[::-1] == size else image
        values = _mask_values(image)
        low, high = values.min(), values.max()
        if high < LABELS or image.mode == "P" or ((values == low) | (values == high)).all():
            return torch.from_numpy(values != 0)
        notices.warning("%s: is a mask of many shades: those above half of their range count", path)
        return torch.from_numpy(values >= (float(low) + float(high)) / 2)


def largest_value(path: str | Path) -> int:
    """The largest value that a 16-bit file has, or declares to be possible; 0 of another file.

    Also 0 where the file cannot be read, which is for those to report who want the image.
    """
    with suppress(ImageError), hold_notices(), _naming(path):
        image, _ = _decode(path)
        if image.info[UPPER_BYTE]:
            return int(np.asarray(image).max()) << 8 | 255
        if image.mode.startswith("I"):
            declared = _declared_bits(image)
            return 2**declared - 1 if declared else int(np.asarray(image).max())
    return 0


def read_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image file as stored, of which the header alone is read."""
    with _naming(path), Image.open(path, formats=FORMATS) as image:
        _choose_page(image, path)
        return image.height, image.width


def count_pages(path: str | Path) -> int:
    """The number of images in a file; 1 where that cannot be read."""
    with suppress(ImageError), _naming(path), own_limit(), Image.open(path, formats=FORMATS) as i:
        return max(1, len(_pages(i)))
    return 1


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file into an `ImageError` of one line with its path."""
    try:
        yield
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        reason = "the file is empty (0 bytes)" if empty else "not an image"
        raise ImageError(f"{path}: {reason}") from None
    except Exception as error:  # damage surfaces as OSError, SyntaxError, struct.error, ...
        reason = (isinstance(error, OSError) and error.strerror) or str(error) or repr(error)
        raise ImageError(f"{path}: cannot be read as an image: {reason}") from error


def _decode(
    path: str | Path, page: int | None = None, lower_byte: bool = False
) -> tuple[Image.Image, int | None]:
    """An image as it is to be seen, and its EXIF orientation, None where it has none.

    Of 16-bit colours it has the upper byte, or else the lower one.
    """
    with own_limit(), Image.open(path, formats=FORMATS) as image:
        if page is None:
            _choose_page(image, path)
        else:
            image.seek(page)
        if (pixels := math.prod(image.size)) > MAX_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} px take {3 * pixels / 1e9:.1f} GB of memory, more"
                f" than the {3 * MAX_PIXELS / 1e9:.1f} GB allowed: cut it into parts"
            )
        image.info[UPPER_BYTE] = image.mode == "RGB" and ";16" in str(image.tile[:1])
        if lower_byte:  # it is the upper one in the other order of bytes
            swapped: list[Any] = [(*tile[:3], _other_order(tile[3])) for tile in image.tile]
            image.tile = swapped
        orientation = _orientation(image, path)  # which loads a PNG
        if orientation in TURNS:
            image.filename = ""  # or Pillow maps a TIFF into memory, its sides exchanged
        image.load()
        # A TIFF Pillow has turned by now, and dropped the orientation.
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return image.transpose(turn) if turn is not None else image, orientation


@contextmanager
def own_limit() -> Iterator[None]:
    """Lift Pillow's guard against decompression bombs: a file that the user named is none.

    Threads have to share one such block.
    """
    guard, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = guard


def _choose_page(image: Image.Image, path: str | Path) -> None:
    sizes = _pages(image)
    image.seek(sizes.index(max(sizes)))
    if len(sizes) > 1:
        text = "%s: has %d pages, of which only the largest (or first) is read"
        notices.warning(text, path, len(sizes))


def _pages(image: Image.Image) -> list[int]:
    """Pixels of each page."""
    sizes = [math.prod(image.size)]
    if image.format != "TIFF":  # which may begin with a thumbnail; of the others all have one size
        return sizes * getattr(image, "n_frames", 1)
    with suppress(Exception):  # behind the last page, or where a page is damaged
        for page in count(1):
            image.seek(page)
            sizes.append(math.prod(image.size))
    return sizes


def _orientation(image: Image.Image, path: str | Path) -> int | None:
    try:
        orientation: int | None = image.getexif().get(ExifTags.Base.Orientation)
        if orientation is None and "exif" in image.info:
            with warnings.catch_warnings(action="error"):  # Pillow only warns of most damage
                Image.Exif().load(image.info["exif"])
    except Exception:  # of almost any kind
        notices.warning("%s: has damaged EXIF data, which are ignored", path)
        return None
    return orientation if orientation in range(1, 9) else None


def _other_order(args: Any) -> Any:
    """The arguments of one of Pillow's decoders, but for the order of bytes in the file."""
    if isinstance(args, tuple):
        return (_other_order(args[0]), *args[1:])
    little = args.endswith("L") or (args.endswith("N") and sys.byteorder == "little")
    return args[:-1] + ("B" if little else "L")


def _declared_bits(image: Image.Image) -> int | None:
    """Bits a value, where the file stores fewer than 16."""
    (bits, *_) = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (16,))
    return bits if bits < 16 else None


def _to_rgb(
    image: Image.Image, path: str | Path, bits: int | None, page: int | None
) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats, which have no defined white; save 8 or 16 bit")
    deep_colours = image.info[UPPER_BYTE] and (bits or 16) < 16
    if image.mode.startswith("I") or deep_colours:  # "I;16", "I;16B" or, from some formats, "I"
        # Pillow's own conversion to 8 bit would clip all above 255 to white.
        values = np.asarray(image)
        if deep_colours:
            lower = np.asarray(_decode(path, page, lower_byte=True)[0])
            values = values.astype(np.uint16) << 8 | lower
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels exceed 16 bit, so white is not defined; save 8 or 16 bit")
        bits = bits or _declared_bits(image) or 16
        white = 2**bits - 1
        if values.max() > white:
            notices.warning("%s: exceeds preprocessing.bits=%d, so it is clipped", path, bits)
        scaled = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
        image = Image.fromarray(scaled.astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        if not _is_constant(alpha):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif alpha.getpixel((0, 0)) != 255:
            notices.warning("%s: is equally transparent everywhere, which is ignored", path)
    return image if image.mode == "RGB" else image.convert("RGB")  # which copies


def _mask_values(image: Image.Image) -> np.ndarray:
    """(H, W), 0 where nothing is anomalous."""
    if len(image.getbands()) == 1 and image.mode != "P":
        return np.asarray(image)
    *colours, alpha = image.convert("RGBA").split()
    if all(map(_is_constant, colours)) and not _is_constant(alpha):
        return np.asarray(alpha)
    return np.asarray(reduce(ImageChops.lighter, colours))


def _is_constant(band: Image.Image) -> bool:
    low, high = band.getextrema()
    return low == high
