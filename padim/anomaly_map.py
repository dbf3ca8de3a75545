"""From distances on the patch grid to a smooth anomaly map in pixels."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from padim.precision import full_precision

RESIZE_KINDS = ("bicubic", "bilinear", "nearest")

SIGMA, SIDE = 4, 224
"""Pixels: the paper's standard deviation, and the side of its images (section IV.B)."""

MAX_SIGMA = 1000
"""Pixels; a wider filter leaves nothing of any image, and takes memory by its width."""


class AnomalyMap(nn.Module):
    """Resize to the image and smooth with a Gaussian, as two matrix products: A M B^T.

    Both steps are linear and separable, so each side of the image has one matrix that does both.
    `prepare` computes it for each grid whose maps will come.

    Args:
        sigma: standard deviation of the Gaussian in pixels of the map, 0 for none, truncated at 4
            sigma, the edge pixel repeated as by `scipy.ndimage.gaussian_filter`. None for 4 on an
            image of 224 x 224, as in the paper, and in proportion to the root of the area on
            others; `prepare` then sets it.
        resize: "bicubic" (paper), "bilinear" or "nearest".

    >>> anomaly_map = AnomalyMap(sigma=0, resize="nearest")
    >>> anomaly_map.prepare((1, 2), (2, 4))
    >>> anomaly_map(torch.tensor([[[1.0, 3.0]]]))
    tensor([[[1., 1., 3., 3.],
             [1., 1., 3., 3.]]])
    """

    def __init__(self, sigma: float | None = None, resize: str = "bicubic") -> None:
        super().__init__()
        if sigma is not None and not 0 <= sigma <= MAX_SIGMA:
            raise ValueError(f"map.sigma must be from 0 to {MAX_SIGMA} pixels, got {sigma}")
        if resize not in RESIZE_KINDS:
            raise ValueError(f"map.resize is {resize!r}; choose one of {', '.join(RESIZE_KINDS)}")
        self.sigma = sigma
        self.resize = resize

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"sigma": self.sigma, "resize": self.resize}

    def prepare(self, grid: tuple[int, int], image_size: tuple[int, int]) -> None:
        """Compute the matrices for maps of `grid` (H, W) and images of `image_size` (H, W)."""
        if self.sigma is None:
            self.sigma = SIGMA * math.sqrt(math.prod(image_size)) / SIDE
        for side, source, target in zip(("rows", "columns"), grid, image_size, strict=True):
            self.register_buffer(f"{side}_{source}", self._matrix(source, target), persistent=False)

    @full_precision
    def forward(self, distance: Tensor) -> Tensor:
        """(B, grid height, grid width) distances to (B, image height, image width) maps."""
        rows, columns = distance.shape[1:]
        return self.get_buffer(f"rows_{rows}") @ distance @ self.get_buffer(f"columns_{columns}").mT

    def _matrix(self, source: int, target: int) -> Tensor:
        """(target, source) matrix of the resize followed by the filter along one side."""
        basis = torch.eye(source, dtype=torch.float64).view(1, source, source, 1)
        mode: dict[str, Any] = {"mode": self.resize}
        if self.resize != "nearest":
            mode["align_corners"] = False
        resized = F.interpolate(basis, size=(target, 1), **mode)[0, :, :, 0].T.numpy()
        if self.sigma:
            resized = gaussian_filter1d(resized, self.sigma, axis=0, mode="reflect", truncate=4.0)
        return torch.from_numpy(np.ascontiguousarray(resized)).float()


def place_in_original(anomaly_map: Tensor, window: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map back to the image it was prepared from (bilinear), 0 where it saw nothing.

    Args:
        anomaly_map: (h, w), higher is more anomalous.
        window: (4,) top, left, bottom, right of what the map covers, in pixels of the original.
        size: (H, W) of the original.

    Returns:
        (H, W). What a crop cut away has the score 0: a defect there is missed, as it is in use.

    >>> place_in_original(torch.ones(2, 2), torch.tensor([0, 1, 2, 3]), (2, 4))
    tensor([[0., 1., 1., 0.],
            [0., 1., 1., 0.]])
    """
    grid = []
    inside = []
    for low, high, length in zip(window[:2].tolist(), window[2:].tolist(), size, strict=True):
        pixels = (torch.arange(length, device=anomaly_map.device) + 0.5 - low) / (high - low)
        grid.append(pixels * 2 - 1)
        inside.append((pixels > 0) & (pixels < 1))
    rows, columns = torch.meshgrid(*grid, indexing="ij")
    placed = F.grid_sample(
        anomaly_map[None, None],
        torch.stack([columns, rows], dim=-1)[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0, 0]
    visible: Tensor = inside[0][:, None] & inside[1]
    return placed * visible
