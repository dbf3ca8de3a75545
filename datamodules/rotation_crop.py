"""Random rotations and crops of images, reproducible from a seed, as in Rd-MVTec AD."""

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from datamodules.errors import require_choice

Border = Literal["edge", "reflect", "constant"]
Interpolation = Literal["bilinear", "bicubic", "nearest"]

_PADDING = {"edge": "border", "reflect": "reflection", "constant": "zeros"}


@dataclass(frozen=True)
class RandomRotationCrop:
    """Rotate an image about its centre, then crop it anywhere.

    The protocol of Rd-MVTec AD (arXiv 2011.08785), whose images are not aligned. An image's angle
    and offset follow from `seed` and the image's id alone, so they are the same in any order and
    in any process. The paper does not name border and interpolation; the defaults are our choice.

    Args:
        seed: of the version of the data set; the paper averages over five.
        degrees: angles are uniform in (-degrees, degrees).
        border: what lies beyond the image: its edge pixels ("edge"), its mirror image ("reflect")
            or black ("constant"). Beyond a mask nothing is anomalous.
        interpolation: of the image; a mask takes its nearest pixel.

    Raises:
        ValueError: an option is none of those listed, or `degrees` is not within 0 to 180.
    """

    seed: int = 0
    degrees: float = 10
    border: Border = "edge"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        require_choice("border", self.border, Border)
        require_choice("interpolation", self.interpolation, Interpolation)
        if not 0 <= self.degrees <= 180:
            raise ValueError(f"degrees must be within 0 to 180, got {self.degrees!r}")

    def params(self, image_id: str, room: tuple[int, int]) -> tuple[float, int, int]:
        """An image's angle (degrees, counter-clockwise) and its crop's offset (top, left).

        Args:
            image_id: any text that names the image.
            room: the greatest offset, (vertical, horizontal); offsets are uniform from 0 to it.
        """
        # Python's own hash() changes from process to process, and NumPy's generators may change
        # between releases.
        key = f"{self.seed}:{image_id}".encode(errors="surrogateescape")
        turn, top, left = struct.unpack(">3Q", hashlib.sha256(key).digest()[:24])
        return (turn / 2**63 - 1) * self.degrees, top % (room[0] + 1), left % (room[1] + 1)

    def image(self, image: Tensor, size: tuple[int, int], image_id: str) -> Tensor:
        """The view of an image, uint8 (C, H, W) -> (C, *size); `size` exceeds no side."""
        return self._view(image, size, image_id, self.interpolation, _PADDING[self.border])

    def mask(self, mask: Tensor, size: tuple[int, int], image_id: str) -> Tensor:
        """The same view of the image's mask, uint8 (C, H, W) -> (C, *size)."""
        return self._view(mask, size, image_id, "nearest", "zeros")

    def _view(
        self, pixels: Tensor, size: tuple[int, int], image_id: str, mode: str, padding: str
    ) -> Tensor:
        height, width = pixels.shape[-2:]
        angle, top, left = self.params(image_id, (height - size[0], width - size[1]))
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        # Only the pixels of the crop are looked up; coordinates are relative to the centre.
        y = torch.arange(size[0])[:, None] + top - (height - 1) / 2
        x = torch.arange(size[1]) + left - (width - 1) / 2
        # grid_sample wants the image to span -1 to 1, outer edge to outer edge.
        grid = torch.stack(
            [(cos * x - sin * y) * 2 / width, (sin * x + cos * y) * 2 / height], dim=-1
        )
        view = grid_sample(pixels[None].float(), grid[None], mode, padding, align_corners=False)
        return view[0].round().clamp(0, 255).to(torch.uint8)  # bicubic overshoots
