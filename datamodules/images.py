"""Image files -> tensors of one size."""

import logging
import math
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datamodules.errors import ImageError, require_choice
from datamodules.rotation_crop import RandomRotationCrop

notices = logging.getLogger(__name__)
"""Has what is odd about a file that is read all the same; see `hold_notices`."""

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

Size = int | Sequence[int]
"""Pixels: one number for both sides, or (H, W)."""

ResizeMode = Literal["stretch", "letterbox", "shorter_side"]

Resolution = Literal["crop", "original"]

PADDING = (124, 116, 104)
"""The mean colour of ImageNet, which is 0 once normalised: what convolutions pad with. On pill,
letterboxed, the image AUROC is 91.9; with repeated edge pixels, whose streaks score high, 88.7."""


def read_image(path: str | Path, bits: int | None = None) -> Tensor:
    """Read an image file as RGB, uint8 (3, H, W); see `read_oriented`."""
    return read_oriented(path, bits)[0]


def read_oriented(path: str | Path, bits: int | None = None) -> tuple[Tensor, int | None]:
    """Read an image file as RGB, uint8 (3, H, W), turned as its EXIF orientation says.

    Grey is replicated, 16 bits are scaled by their white (never stretched image by image), a
    palette is resolved to its colours, transparency laid over white unless it is the same
    everywhere. Of several pages the largest is read. What is ignored is logged.

    Args:
        path: of the file.
        bits: the white of a 16-bit file is 2**bits - 1, and what exceeds it is clipped; None for as
            many as the file declares.

    Returns:
        It, and the orientation, None where the file has none.

    Raises:
        ImageError: the file is missing, empty, no image, damaged, of more than `MAX_PIXELS`, or of
            a pixel type without a defined white (float, integers beyond 16 bit). Names the path
            and the reason.
    """
    with _naming(path):
        image, orientation = _decode(path)
        return F.pil_to_tensor(_to_rgb(image, path, bits)), orientation


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


@contextmanager
def hold_notices() -> Iterator[dict[str, str]]:
    """Hold back what is logged of files in the block; yields the first message of each kind."""
    held: dict[str, str] = {}

    def hold(record: logging.LogRecord) -> bool:
        held.setdefault(record.msg, record.getMessage())
        return False

    notices.addFilter(hold)
    try:
        yield held
    finally:
        notices.removeFilter(hold)


def read_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image file as stored, of which the header alone is read."""
    with _naming(path), Image.open(path, formats=FORMATS) as image:
        _choose_page(image, path)
        return image.height, image.width


@dataclass(frozen=True)
class Preprocessing:
    """Bring images of any size to one size: cut out a box, resize, then crop the centre.

    The defaults are the paper's protocol: 256 x 256 whatever the aspect, centre 224 x 224.

    Args:
        resize: sides after resizing; None keeps the image as it is.
        crop: sides of the crop; None keeps all of the resized image.
        resize_mode: "stretch" brings both sides to `resize` (paper). The others keep the aspect:
            "letterbox" fits all of the image into `resize`, with `PADDING` around it;
            "shorter_side" covers `resize`, and cuts off what juts out where there is no `crop`.
        roi: top, left, bottom, right of the part looked at, in pixels of the original; None for
            all of it. It has one aspect, so there is no letterbox.
        resolution: of the masks and maps that are compared: "crop", prepared as their images
            (paper), or "original", as the masks are on disk.
        bits: that 16-bit files use, 8 to 16; None for what the files declare, or as a data
            module finds.
        rotation_crop: rotates each image and crops it at random; None crops the centre.
        root: for `rotation_crop`, an image's id is its path relative to this folder. Set by the
            data module.

    Raises:
        ValueError: an argument is none of those described, the crop exceeds the resized image,
            neither `resize` nor `crop` is given, or `rotation_crop` is set beside a letterbox or
            the original resolution.
    """

    resize: Size | None = 256
    crop: Size | None = 224
    resize_mode: ResizeMode = "stretch"
    roi: Sequence[int] | None = None
    resolution: Resolution = "crop"
    bits: int | None = None
    rotation_crop: RandomRotationCrop | None = None
    root: Path = field(default=Path(), repr=False, compare=False)

    def __post_init__(self) -> None:
        resize, crop = _pair("resize", self.resize), _pair("crop", self.crop)
        if resize is None and crop is None:
            raise ValueError("resize and crop are both None: give one, or images have no one size")
        require_choice("resize_mode", self.resize_mode, ResizeMode)
        require_choice("resolution", self.resolution, Resolution)
        if self.bits is not None and self.bits not in range(8, 17):
            raise ValueError(f"bits must be 8 to 16, or None, got {self.bits!r}")
        if resize is None and self.resize_mode != "stretch":
            raise ValueError(f"resize_mode is {self.resize_mode!r}, so resize must be given")
        if resize and crop:
            exceeded = [part > whole for part, whole in zip(crop, resize, strict=True)]
            # What covers `resize` is larger on one side, which one depends on the image.
            if all(exceeded) if self.resize_mode == "shorter_side" else any(exceeded):
                raise ValueError(
                    f"crop {_show(crop)} is larger than resize {_show(resize)}:"
                    " make the crop smaller, or None for no crop"
                )
        for name, value in (("resize_mode", "letterbox"), ("resolution", "original")):
            if self.rotation_crop and getattr(self, name) == value:
                raise ValueError(f"{name}={value} cannot be used with a rotation_crop: unset one")
        if self.roi is not None:
            _require_box(self.roi)
            if resize and self.resize_mode == "letterbox":
                top, left, bottom, right = self.roi
                scale = min(resize[0] / (bottom - top), resize[1] / (right - left)) / 32
                fit = [32 * max(round(n * scale), 1) for n in (bottom - top, right - left)]
                raise ValueError(
                    "resize_mode=letterbox would pad all images alike, as a roi has one aspect:"
                    f" use stretch, with a resize such as [{fit[0]},{fit[1]}]"
                )
        for name in ("resize", "crop", "roi"):
            if isinstance(value := getattr(self, name), Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))  # Hydra gives its own kind of list

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every image and mask that comes out."""
        size = _pair("crop", self.crop) or _pair("resize", self.resize)
        assert size is not None  # by __post_init__
        return size

    def image(self, image: Tensor, path: str | Path = "image") -> Tensor:
        """Cut out, resize (bicubic, antialiased) and crop an image, uint8 (3, H, W) -> (3, h, w).

        Raises:
            ImageError: the image is smaller than `roi`, or than the crop; names `path`.
        """
        return self._apply(image, path, is_mask=False)

    def mask(self, mask: Tensor, path: str | Path = "image") -> Tensor:
        """Cut out, resize (nearest) and crop a mask, bool (H, W) -> (h, w), as `image` its image.

        `path` is the image's. Nothing that is padded is anomalous.
        """
        pixels = mask.to(torch.uint8)[None]  # interpolation knows no bool
        return self._apply(pixels, path, is_mask=True)[0].bool()

    def pair(self, image: Tensor, mask: Tensor, path: str | Path) -> dict[str, Tensor]:
        """An image, uint8 (3, H, W), and its mask, bool (H, W), as in a test batch.

        At the original resolution the mask is left as it is; of a letterbox it is cut to what is
        no padding. Both then have a "window", (4,): see `window`.
        """
        height, width = image.shape[-2:]
        item = {"image": self.image(image, path)}
        if self.resolution == "original":
            return {**item, "mask": mask, "window": self.window(height, width)}
        mask = self.mask(mask, path)
        if self.resize_mode != "letterbox":
            return {**item, "mask": mask}
        rows, columns = self.unpadded(height, width)
        window = torch.tensor([0.0, 0, *mask.shape]) - torch.tensor([rows.start, columns.start] * 2)
        return {**item, "mask": mask[rows, columns], "window": window}

    def window(self, height: int, width: int) -> Tensor:
        """What a prepared image shows of one of height x width: (4,) top, left, bottom, right.

        In pixels of the original, fractions included. Padding lies outside the original.

        Raises:
            ValueError: `rotation_crop` is set, so the part shown is no upright box.
        """
        if self.rotation_crop:
            raise ValueError("what a rotated image shows is no upright box in the original")
        place = self._place(height, width)
        start = place.origin + place.start * place.scale
        end = start + np.array(self.image_size) * place.scale
        return torch.tensor([*start, *end], dtype=torch.float32)

    def unpadded(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a prepared image that are not padding."""
        place = self._place(height, width)
        ends = np.minimum(place.resized - place.start, self.image_size).tolist()
        rows, columns = map(slice, np.maximum(-place.start, 0).tolist(), ends)
        return rows, columns

    def _place(self, height: int, width: int) -> "_Place":
        origin, end = np.reshape(self.roi or (0, 0, height, width), (2, 2))
        cut = end - origin
        resized = padded = np.array(_pair("resize", self.resize) or cut)
        if self.resize_mode != "stretch":
            letterbox = self.resize_mode == "letterbox"
            scale = (resized / cut).min() if letterbox else (resized / cut).max()
            resized = np.maximum(np.round(cut * scale).astype(int), 1)
            padded = padded if letterbox else resized
        before = (padded - resized) // 2
        start = np.round((padded - self.image_size) / 2).astype(int) - before  # as torchvision's
        return _Place(origin, cut / resized, resized, before, padded - resized - before, start)

    def _apply(self, pixels: Tensor, path: str | Path, is_mask: bool) -> Tensor:
        size = (pixels.shape[-2], pixels.shape[-1])
        if self.roi and _smaller(size, (self.roi[2], self.roi[3])):
            raise ImageError(
                f"{path}: roi {list(self.roi)} (top, left, bottom, right) reaches beyond the image,"
                f" {_show(size)}"
            )
        place = self._place(*size)
        if self.roi:
            top, left, bottom, right = self.roi
            pixels = pixels[..., top:bottom, left:right]
        if self.resize:
            kind = InterpolationMode.NEAREST_EXACT if is_mask else InterpolationMode.BICUBIC
            pixels = F.resize(pixels, place.resized.tolist(), kind, antialias=True)
        if place.before.any() or place.after.any():
            fill = 0 if is_mask else list(PADDING)
            sides = [*place.before[::-1].tolist(), *place.after[::-1].tolist()]
            pixels = F.pad(pixels, sides, fill=fill)
        size = (pixels.shape[-2], pixels.shape[-1])
        if _smaller(size, self.image_size):
            raise ImageError(
                f"{path}: {_show(size)} is smaller than the crop, {_show(self.image_size)}:"
                " make the crop smaller, or resize first"
            )
        if self.rotation_crop:
            image_id = Path(os.path.relpath(path, self.root)).as_posix()
            view = self.rotation_crop.mask if is_mask else self.rotation_crop.image
            return view(pixels, self.image_size, image_id)
        return F.center_crop(pixels, list(self.image_size))


class _Place(NamedTuple):
    """Where a prepared image comes from: pixels, each (2,), of rows and columns.

    What is cut out from `origin` on becomes `resized`, each pixel from `scale` of the original,
    then is padded `before` and `after`. Shown is what follows from `start`, counted from the first
    that is no padding.
    """

    origin: np.ndarray
    scale: np.ndarray
    resized: np.ndarray
    before: np.ndarray
    after: np.ndarray
    start: np.ndarray


def _require_box(roi: Sequence[int]) -> None:
    numbers = isinstance(roi, Sequence) and all(isinstance(side, int) for side in roi)
    if not (numbers and len(roi) == 4 and 0 <= roi[0] < roi[2] and 0 <= roi[1] < roi[3]):
        raise ValueError(
            "roi must be top, left, bottom, right in pixels of the original,"
            f" such as [0,100,480,740]; got {roi!r}"
        )


def _pair(name: str, size: Size | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, Iterable) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f"{name} must be one or two (H, W) positive integers, got {size!r}")
    return pair[0], pair[1]


def _smaller(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return size[0] < other[0] or size[1] < other[1]


def _show(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


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


def _decode(path: str | Path, lower_byte: bool = False) -> tuple[Image.Image, int | None]:
    """An image as it is to be seen, and its EXIF orientation, None where it has none.

    Of 16-bit colours it has the upper byte, or else the lower one.
    """
    with own_limit(), Image.open(path, formats=FORMATS) as image:
        _choose_page(image, path)
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
    if image.format == "TIFF":  # which may begin with a thumbnail; of the others all have one size
        sizes = [math.prod(image.size)]
        with suppress(Exception):  # behind the last page, or where a page is damaged
            for page in count(1):
                image.seek(page)
                sizes.append(math.prod(image.size))
        image.seek(sizes.index(max(sizes)))
        pages = len(sizes)
    else:
        pages = getattr(image, "n_frames", 1)
    if pages > 1:
        text = "%s: has %d pages, of which only the largest (or first) is read"
        notices.warning(text, path, pages)


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


def _to_rgb(image: Image.Image, path: str | Path, bits: int | None) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats, which have no defined white; save 8 or 16 bit")
    deep_colours = image.info[UPPER_BYTE] and (bits or 16) < 16
    if image.mode.startswith("I") or deep_colours:  # "I;16", "I;16B" or, from some formats, "I"
        # Pillow's own conversion to 8 bit would clip all above 255 to white.
        values = np.asarray(image)
        if deep_colours:
            values = values.astype(np.uint16) << 8 | np.asarray(_decode(path, lower_byte=True)[0])
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
