"""Images of any size -> images of one size."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datamodules.decoding import read_mask
from datamodules.errors import ImageError, require_choice
from datamodules.finding import IMAGE_SUFFIXES
from datamodules.rotation_crop import RandomRotationCrop

Size = int | Sequence[int]
"""Pixels: one number for both sides, or (H, W)."""

ResizeMode = Literal["stretch", "letterbox", "shorter_side"]

Resolution = Literal["crop", "original"]

PADDING = (124, 116, 104)
"""The mean colour of ImageNet, which is 0 once normalised: what convolutions pad with. On pill,
letterboxed, the image AUROC is 91.9; with repeated edge pixels, whose streaks score high, 88.7."""


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
        ignore: file of a mask, whose pixels but black ones are not looked at, in any image; None
            looks at all. It is of the images' size, is prepared as they are, and kept in the model.
            Or a folder of masks of single images, see `own_masks`: not of those fitted on.
        rotation_crop: rotates each image and crops it at random; None crops the centre.
        root: for `rotation_crop`, an image's id is its path relative to this folder. Set by the
            data module.

    Raises:
        ValueError: an argument is none of those described, the crop exceeds the resized image,
            neither `resize` nor `crop` is given, or `rotation_crop` is set beside a letterbox, the
            original resolution or `ignore`.
    """

    resize: Size | None = 256
    crop: Size | None = 224
    resize_mode: ResizeMode = "stretch"
    roi: Sequence[int] | None = None
    resolution: Resolution = "crop"
    bits: int | None = None
    ignore: str | None = None
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
        if self.rotation_crop and self.ignore:
            raise ValueError(
                "ignore cannot be used with a rotation_crop, which moves what is to be ignored"
            )
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

    @property
    def ignore_folder(self) -> Path | None:
        """The folder of masks that `ignore` names; None where it names a file, or nothing."""
        if not self.ignore:
            return None
        path = Path(self.ignore).expanduser()
        named = path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
        return None if named or path.is_file() else path

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

    def ignored(self, size: Sequence[int]) -> Tensor | None:
        """The pixels of prepared images that are not looked at, bool (h, w); None if that is none.

        Args:
            size: (H, W) of images before.

        Raises:
            ImageError: the mask cannot be read, or is of another size.
            ValueError: it leaves no pixel, or marks none.
        """
        if self.ignore is None or self.ignore_folder:
            return None
        mask = read_mask(self.ignore)
        if tuple(mask.shape) != tuple(size):
            own, others = (_show((h, w)) for h, w in (mask.shape, size))
            raise ImageError(
                f"{self.ignore}: the mask of what is ignored is {own}, images {others}"
            )
        ignored = self.mask(mask, self.ignore)
        if ignored.all() or not ignored.any():
            what = "all pixels" if ignored.all() else "no pixel"
            raise ValueError(
                f"preprocessing.ignore={self.ignore} marks {what} of what the model sees: white is"
                " what is ignored, black all else"
            )
        return ignored

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
