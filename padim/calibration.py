"""Thresholds with a stated false-alarm rate, from the scores of normal images alone."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from padim.sample import image_keys

BATCH = 32
"""Images worked on at a time; it bounds the memory."""

PIXELS = 16384
"""Pixels of a map that are looked at; a smooth map has no more to say."""

SHARES = [10 ** (k / 10 - 5) for k in range(41)]
"""Shares of the pixels, 1e-5 to 0.1, for which the score that they exceed is kept."""

log = logging.getLogger(__name__)


class Calibration(nn.Module):
    """Scores of normal images that the model was not fitted on, and thresholds that follow.

    Conformal prediction (Vovk et al., 2005): where the score of a new normal image is exchangeable
    with the m scores kept, it is among the r highest of all m + 1 with probability r / (m + 1).
    docs/thresholds.md says what that means for leave-one-out scores.

    Other thresholds can be fixed in place of those of the rate. They hold for the model as it is:
    more images of a fit or of another model end them, with a warning.

    Args:
        images: of the training images at most so many are left out, chosen at random; their
            embeddings are kept while the model is fitted.
        false_alarm_rate: wanted share of normal images called anomalous, in (0, 1).
        fixed: thresholds of an image and of a pixel; None for those of the rate.
        source: what the fixed thresholds are, in words.

    Raises:
        ValueError: an argument is outside its range.

    >>> calibration = Calibration()
    >>> scores = torch.arange(99.0)
    >>> calibration.keep([(scores, scores.view(99, 1, 1), image_keys(range(99)))])
    >>> round(calibration.threshold(0.05), 3)  # which the 5 highest of 100 images reach
    94.0
    >>> calibration.p_value(torch.tensor([94.5, 200.0]))
    tensor([0.0500, 0.0100])

    Buffers:
        keys: (m,) of the images, as of `image_keys`.
        scores: (m,) their image scores.
        peaks: (m,) the largest pixels of their maps.
        means: (m,) the means of their maps; empty in files of 0.1.0.
        tail: (41,) pixel scores that each of `SHARES` of all pixels exceeds.
        limits: (2,) the fixed thresholds of an image and of a pixel; NaN if there are none.
    """

    keys: Tensor
    scores: Tensor
    peaks: Tensor
    means: Tensor
    tail: Tensor
    limits: Tensor

    def __init__(
        self,
        images: int = 256,
        false_alarm_rate: float = 0.01,
        fixed: Sequence[float] | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__()
        if images < 2:
            raise ValueError(f"threshold.images must be 2 or more, got {images}")
        if not (isinstance(false_alarm_rate, int | float) and 0 < false_alarm_rate < 1):
            raise ValueError(
                f"threshold.false_alarm_rate must be within 0 and 1, got {false_alarm_rate!r}"
            )
        self.images = images
        self.false_alarm_rate = false_alarm_rate
        self.source = source
        self.register_buffer("keys", torch.empty(0, dtype=torch.int64))
        self.register_buffer("scores", torch.empty(0))
        self.register_buffer("peaks", torch.empty(0))
        self.register_buffer("means", torch.empty(0))
        self.register_buffer("tail", torch.full((len(SHARES),), math.inf))
        self.register_buffer("limits", torch.tensor(fixed or [math.nan] * 2, dtype=torch.float32))

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        fixed = None if self.fixed is None else list(self.fixed)
        return {
            "images": self.images,
            "false_alarm_rate": self.false_alarm_rate,
            "fixed": fixed,
            "source": self.source if fixed else None,
        }

    @property
    def fixed(self) -> tuple[float, float] | None:
        """The fixed thresholds of an image and of a pixel; None if there are none."""
        image, pixel = self.limits.tolist()
        return None if math.isnan(image) else (image, pixel)

    @property
    def thresholds(self) -> tuple[float, float] | None:
        """Of an image and of a pixel: fixed, or of `rate`; None if there are neither."""
        if self.fixed or self.rate is None:
            return self.fixed
        return self.threshold(self.rate), self.pixel_threshold(self.rate)

    @property
    def rate(self) -> float | None:
        """The false-alarm rate wanted, or the lowest that can be promised; None before `fit`."""
        m = len(self.scores)
        return max(self.false_alarm_rate, 1 / (m + 1)) if m else None

    def warn_if_few(self) -> None:
        """Warn where the rate wanted cannot be promised."""
        wanted, rate = self.false_alarm_rate, self.rate
        if rate != wanted:
            log.warning(
                "a false-alarm rate of %g takes %d normal images: with %d it is %.3g",
                *(wanted, math.ceil(1 / wanted) - 1, len(self.scores), rate),
            )

    @torch.no_grad()
    def fit(
        self,
        distances: Sequence[Tensor],
        score: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
        keys: Tensor | None = None,
        ignored: Tensor | None = None,
    ) -> None:
        """Replace what is kept by the scores of training images, each left out.

        Args:
            distances: of m images from `leave_one_out`: (m, grid height, grid width) each.
            score: the model's image scores (B,) and anomaly maps (B, H, W) of distances.
            keys: (m,) of the images, by which `merge` chooses from several; their running numbers'
                by default.
            ignored: see `keep`.
        """
        self._unfix()
        keys = image_keys(range(len(distances[0]))) if keys is None else keys
        parts = zip(keys.split(BATCH), *(d.split(BATCH) for d in distances), strict=True)
        self.keep(((*score(list(part)), some) for some, *part in parts), ignored)

    @torch.no_grad()
    def keep(
        self, batches: Iterable[tuple[Tensor, Tensor, Tensor]], ignored: Tensor | None = None
    ) -> None:
        """Replace what is kept by the scores of normal images that the model was not fitted on.

        Args:
            batches: image scores (B,), anomaly maps (B, H, W) and keys (B,) of the images.
            ignored: bool (H, W), pixels that do not count; None for none.
        """
        self.keep_sampled(sampled(*batch, ignored) for batch in batches)

    @torch.no_grad()
    def keep_sampled(self, batches: Iterable[tuple[Tensor, ...]]) -> None:
        """The same of batches that are `sampled` already, as they come one by one."""
        scores, peaks, means, pixels, keys = zip(*batches, strict=True)
        self.scores, self.peaks, self.means = map(torch.cat, (scores, peaks, means))
        self.keys = torch.cat(keys).to(self.scores.device)
        pixel = torch.cat(pixels).sort(descending=True).values
        self.tail = pixel[[int(share * len(pixel)) for share in SHARES]]

    def fix(self, image: float, pixel: float, source: str) -> None:
        """Set thresholds of an image and of a pixel in place of those of the rate.

        `source` says what they are, in words.
        """
        self.limits, self.source = self.limits.new_tensor([image, pixel]), source

    def _unfix(self) -> None:
        if self.fixed:
            log.warning(
                "the threshold %.4g, %s, is dropped: it was of the model before",
                *(self.fixed[0], self.source),
            )
            self.limits = torch.full_like(self.limits, math.nan)

    def merge(self, other: "Calibration") -> None:
        """Add what was kept of other images; of all, `images` are chosen by their keys.

        Each score was measured when its own images were all there was, so those of a model that
        has since seen more are a little high. Of `tail` this is the mean.
        """
        self._unfix()
        keys = torch.cat([self.keys, other.keys])
        chosen = keys.argsort(stable=True)[: self.images]
        own = (chosen < len(self.keys)).sum() / max(1, len(chosen))
        if len(other.keys):
            self.tail = own * self.tail + (1 - own) * other.tail if own else other.tail
        self.keys = keys[chosen]
        self.scores = torch.cat([self.scores, other.scores])[chosen]
        self.peaks = torch.cat([self.peaks, other.peaks])[chosen]
        means = torch.cat([self.means, other.means])
        self.means = means[chosen] if len(means) == len(keys) else means[:0]

    def p_value(self, scores: Tensor) -> Tensor:
        """(1 + number of the m scores kept that are as high) / (m + 1), of scores (B,).

        1 where nothing is kept.
        """
        return p_value(self.scores, scores)

    def threshold(self, rate: float) -> float:
        """Least image score to call anomalous at a false-alarm rate, in (0, 1).

        An image is anomalous where its score is at least this, which is where its p-value is at
        most `rate`.

        Raises:
            ValueError: the rate is outside its range, or too low for this number of images.
        """
        return _conformal_threshold(self.scores, rate)

    def pixel_threshold(self, rate: float) -> float:
        """Least pixel score to call anomalous, so that `rate` of the normal images has any.

        With the maximum of the map as image score, this is `threshold`: an image is anomalous
        exactly where it has an anomalous pixel.

        Raises:
            ValueError: as for `threshold`.
        """
        return _conformal_threshold(self.peaks, rate)

    def extent_threshold(self, share: float = 0.001) -> float:
        """Pixel score that a share of all pixels of normal images exceeds, in 1e-5 to 0.1.

        It says how far a region reaches that holds a pixel at or above `pixel_threshold`; on its
        own it is passed in many normal images.

        Raises:
            ValueError: the share is outside its range.
        """
        if not SHARES[0] <= share <= SHARES[-1]:
            raise ValueError(f"a share of the pixels must be within 1e-5 to 0.1, got {share:g}")
        return float(np.interp(math.log(share), np.log(SHARES), self.tail.cpu().numpy()))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        state.setdefault(f"{prefix}means", self.means[:0])
        for name in ("keys", "scores", "peaks", "means"):  # as many as were kept
            held = state.get(prefix + name, self.get_buffer(name))
            setattr(self, name, torch.empty_like(held, device=self.tail.device))
        super()._load_from_state_dict(state, prefix, *rest)


def p_value(known: Tensor, values: Tensor) -> Tensor:
    """Conformal p-values (B,) of values (B,) beside m known ones; 1 where nothing is known."""
    return (1 + (known >= values.unsqueeze(-1)).sum(dim=-1)) / (1 + len(known))


def sampled(
    scores: Tensor, maps: Tensor, keys: Tensor, ignored: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Image scores, highest and mean pixels (B,), a sample of all pixels (N,) and keys (B,).

    Args:
        scores: (B,) of images.
        maps: (B, H, W), which are not needed any more.
        keys: (B,) of the images.
        ignored: bool (H, W) or (B, H, W), pixels that do not count, and are 0 in the maps; None for
            none.
    """
    step = math.ceil(math.sqrt(maps.shape[1:].numel() / PIXELS))
    pixels = maps[:, ::step, ::step]
    if ignored is not None:
        pixels = pixels[~ignored.expand_as(maps)[:, ::step, ::step]]
    return scores, maps.amax(dim=(1, 2)), maps.mean(dim=(1, 2)), pixels.flatten(), keys


def _conformal_threshold(scores: Tensor, rate: float) -> float:
    """Just above the r-th highest of m scores, r the integer part of rate * (m + 1)."""
    m = len(scores)
    if not 0 < rate < 1:
        raise ValueError(f"a false-alarm rate must be within 0 and 1, got {rate:g}")
    rank = min(m, int(rate * (m + 1) + 1e-9))
    if rank < 1:
        raise ValueError(
            f"a false-alarm rate of {rate:g} cannot be promised from {m} normal images: the lowest"
            f" is 1/{m + 1} = {1 / (m + 1):.2g}; {rate:g} takes {math.ceil(1 / rate - 1e-9) - 1}"
        )
    highest = scores.sort().values[m - rank]
    return float(torch.nextafter(highest, scores.new_tensor(math.inf)))
