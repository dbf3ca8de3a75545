"""From an anomaly map to one score an image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCORE_KINDS = ("max", "max_raw", "topk_mean")


class ImageScore(nn.Module):
    """The score of an image, from its distances or its anomaly map.

    The paper takes the maximum of the map and does not say whether before or after resize and
    smoothing; public implementations take it after.

    Args:
        kind: "max" of the final map, "max_raw" of the distances before resize and smoothing, or
            "topk_mean", the mean of the highest pixels of the final map.
        top: share of the pixels that "topk_mean" averages, in (0, 1].

    Raises:
        ValueError: the kind is unknown, or the share is outside its range.

    >>> distances = torch.tensor([[[1.0, 9.0, 2.0, 4.0]]])
    >>> ImageScore("topk_mean", top=0.5)([distances], distances)
    tensor([6.5000])
    """

    def __init__(self, kind: str = "max", top: float = 0.005) -> None:
        super().__init__()
        if kind not in SCORE_KINDS:
            raise ValueError(f"score.kind is {kind!r}; choose one of {', '.join(SCORE_KINDS)}")
        if not 0 < top <= 1:
            raise ValueError(f"score.top must be a share of the pixels in (0, 1], got {top}")
        self.kind = kind
        self.top = top

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"kind": self.kind, "top": self.top}

    def forward(
        self, distances: list[Tensor], maps: Tensor, pixels: int | Tensor | None = None
    ) -> Tensor:
        """Scores (B,) of distances and their maps (B, H, W).

        Args:
            distances: (B, grid height, grid width) each, to be summed on the finest grid.
            maps: of the distances.
            pixels: number of those of a map that are looked at, the others are 0: one for all maps,
                or (B,); None for all pixels.
        """
        if self.kind == "max_raw":
            finest = max(tuple(d.shape[1:]) for d in distances)
            spread = [F.interpolate(d.unsqueeze(1), finest, mode="nearest") for d in distances]
            return torch.stack(spread).sum(dim=0).amax(dim=(1, 2, 3))
        if self.kind == "max":
            return maps.amax(dim=(1, 2))
        if isinstance(pixels, Tensor):
            each = zip(maps.split(1), pixels.tolist(), strict=True)
            return torch.cat([self(distances, one, seen) for one, seen in each])
        count = max(1, round(self.top * (pixels or maps[0].numel())))
        return torch.topk(maps.flatten(1), count, sorted=False).values.mean(dim=1)
