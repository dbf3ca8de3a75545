"""Image files -> tensors of one size."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datamodules.errors import ImageError
from datamodules.pose import RandomPose

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

Size = int | Sequence[int]
"""Pixels: one number for both sides, or (H, W)."""


def read_image(path: str | Path) -> Tensor:
    """Read an image file as RGB, uint8 (3, H, W), turned as its EXIF orientation says.

    Grey is replicated, 16-bit grey scaled by 1/257 (never clipped, never stretched image by
    image), a palette resolved to its colours, transparency laid over white.

    Raises:
        ImageError: the file is missing, empty, no image, damaged, or of a pixel type without a
            defined white (float, integers beyond 16 bit). Names the path and the reason.
    """
    with _naming(path):
        return F.pil_to_tensor(_to_rgb(_decode(path)))


def read_mask(path: str | Path) -> Tensor:
    """Read a mask file, bool (H, W): every pixel that is not black is anomalous.

    Raises:
        ImageError: as for `read_image`.
    """
    with _naming(path):
        image = _decode(path)
        if len(image.getbands()) == 1 and image.mode != "P":
            return torch.from_numpy(np.asarray(image) != 0)
        colours = np.asarray(image.convert("RGBA"))[..., :3]  # alpha says nothing about defects
        return torch.from_numpy(colours.any(axis=-1))


def find_images(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files of a folder by their suffix, sorted; none if there is no such folder."""
    return sorted(filter(is_image, folder.glob("**/*" if recursive else "*")))


def is_image(path: Path) -> bool:
    """Whether `path` is a file with an image's suffix, in any case, and not hidden.

    Hidden ones are left out for macOS, which puts a `._000.png` that is no image beside
    `000.png` on foreign disks and into archives.
    """
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


@dataclass(frozen=True)
class Preprocessing:
    """Bring images of any size to one size: resize, then crop the centre or a random view.

    The defaults are the paper's protocol: 256 x 256 whatever the aspect, centre 224 x 224.

    Args:
        resize: sides after resizing; None keeps the image as it is.
        crop: sides of the crop; None keeps all of the resized image.
        pose: rotates each image and crops it anywhere; None crops the centre.
        root: for `pose`, an image's id is its path relative to this folder.

    Raises:
        ValueError: a size is not positive, the crop exceeds the resized image, or both are None.
    """

    resize: Size | None = 256
    crop: Size | None = 224
    pose: RandomPose | None = None
    root: Path = Path()

    def __post_init__(self) -> None:
        resize, crop = _pair("resize", self.resize), _pair("crop", self.crop)
        if resize is None and crop is None:
            raise ValueError("resize and crop are both None: give one, or images have no one size")
        if resize and crop and _smaller(resize, crop):
            raise ValueError(
                f"crop {_show(crop)} is larger than resize {_show(resize)}:"
                " make the crop smaller, or None for no crop"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every image and mask that comes out."""
        size = _pair("crop", self.crop) or _pair("resize", self.resize)
        assert size is not None  # by __post_init__
        return size

    def image(self, image: Tensor, path: str | Path = "image") -> Tensor:
        """Resize (bicubic, antialiased) and crop an image, uint8 (3, H, W) -> (3, h, w).

        Raises:
            ImageError: without resizing, the image is smaller than the crop; names `path`.
        """
        return self._apply(image, path, is_mask=False)

    def mask(self, mask: Tensor, path: str | Path = "image") -> Tensor:
        """Resize (nearest) and crop a mask, bool (H, W) -> (h, w), as `image` does its image.

        `path` is the image's.
        """
        pixels = mask.to(torch.uint8)[None]  # interpolation knows no bool
        return self._apply(pixels, path, is_mask=True)[0].bool()

    def window(self, height: int, width: int) -> Tensor:
        """What a prepared image shows of one of height x width: (4,) top, left, bottom, right.

        In pixels of the original, fractions included.

        Raises:
            ValueError: `pose` is set, so the part shown is no upright box.
        """
        if self.pose:
            raise ValueError("what a rotated image shows is no upright box in the original")
        size = (height, width)
        resized = _pair("resize", self.resize) or size
        shown = _pair("crop", self.crop) or resized
        sides = []
        for full, whole, part in zip(size, resized, shown, strict=True):
            start = round((whole - part) / 2)  # as torchvision's center_crop
            sides.append((start * full / whole, (start + part) * full / whole))
        (top, bottom), (left, right) = sides
        return torch.tensor([top, left, bottom, right])

    def _apply(self, pixels: Tensor, path: str | Path, is_mask: bool) -> Tensor:
        resize, crop = _pair("resize", self.resize), _pair("crop", self.crop)
        if resize:
            kind = InterpolationMode.NEAREST_EXACT if is_mask else InterpolationMode.BICUBIC
            pixels = F.resize(pixels, list(resize), kind, antialias=True)
        size = (pixels.shape[-2], pixels.shape[-1])
        if crop and _smaller(size, crop):
            raise ImageError(
                f"{path}: {_show(size)} is smaller than the crop, {_show(crop)}:"
                " make the crop smaller, or resize first"
            )
        if self.pose:
            image_id = Path(os.path.relpath(path, self.root)).as_posix()
            view = self.pose.mask if is_mask else self.pose.image
            return view(pixels, crop or size, image_id)
        return F.center_crop(pixels, list(crop)) if crop else pixels


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
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ImageError(f"{path}: cannot be read as an image: {reason}") from error


def _decode(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats, which have no defined white; save 8 or 16 bit")
    if image.mode.startswith("I"):  # "I;16", "I;16B" or, from some formats, "I"
        # Pillow's own conversion to 8 bit would clip all above 255 to white.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels exceed 16 bit, so white is not defined; save 8 or 16 bit")
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")
