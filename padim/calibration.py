"""Thresholds with a stated false-alarm rate, from the scores of normal images alone."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from padim.factorisation import (
    LevelBlocks,
    covariances,
    each_chunk,
    pooled_covariance,
    separate_layers,
    under,
    whiten,
    whitened,
)
from padim.gaussian import PatchGaussian
from padim.levels import group
from padim.statistics import PatchStatistics

BATCH = 32
"""Images worked on at a time; it bounds the memory."""

REFITS = 10
"""With fewer images than this each is left out by a fit of its own: quick, and exact."""

PIXELS = 16384
"""Pixels of a map that are looked at; a smooth map has no more to say."""

SHARES = [10 ** (k / 10 - 5) for k in range(41)]
"""Shares of the pixels, 1e-5 to 0.1, for which the score that they exceed is kept."""


class Calibration(nn.Module):
    """What normal images score that the model was not fitted on, and what follows for new ones.

    Conformal prediction (Vovk et al., 2005): where the score of a new normal image is exchangeable
    with the m scores kept, it is among the r highest of all m + 1 with probability r / (m + 1).
    docs/thresholds.md says what that means for leave-one-out scores.

    Args:
        images: of the training images at most so many are left out, drawn at random; their
            embeddings are kept while the model is fitted.
        false_alarm_rate: wanted share of normal images called anomalous, in (0, 1).

    Raises:
        ValueError: an argument is outside its range.

    Buffers:
        scores: (m,) image scores, ascending.
        peaks: (m,) largest pixels of the maps, ascending.
        tail: (41,) pixel scores that each of `SHARES` of all pixels exceeds.
    """

    scores: Tensor
    peaks: Tensor
    tail: Tensor

    def __init__(self, images: int = 256, false_alarm_rate: float = 0.01) -> None:
        super().__init__()
        if images < 2:
            raise ValueError(f"threshold.images must be 2 or more, got {images}")
        if not 0 < false_alarm_rate < 1:
            raise ValueError(
                f"threshold.false_alarm_rate must be within 0 and 1, got {false_alarm_rate}"
            )
        self.images = images
        self.false_alarm_rate = false_alarm_rate
        self.register_buffer("scores", torch.empty(0))
        self.register_buffer("peaks", torch.empty(0))
        self.register_buffer("tail", torch.full((len(SHARES),), math.inf))

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"images": self.images, "false_alarm_rate": self.false_alarm_rate}

    @property
    def rate(self) -> float | None:
        """The false-alarm rate wanted, or the lowest that can be promised; None before `fit`."""
        m = len(self.scores)
        return max(self.false_alarm_rate, 1 / (m + 1)) if m else None

    @torch.no_grad()
    def fit(
        self,
        distances: Sequence[Tensor],
        score: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
    ) -> None:
        """Replace what is kept by the scores of some normal images.

        Args:
            distances: of m images that the model was not fitted on, as from `leave_one_out` or of
                a held-out set: (m, grid height, grid width) each.
            score: the model's image scores (B,) and anomaly maps (B, H, W) of distances.
        """
        scores, peaks, pixels = [], [], []
        for part in zip(*(distance.split(BATCH) for distance in distances), strict=True):
            image_scores, maps = score(list(part))
            step = math.ceil(math.sqrt(maps[0].numel() / PIXELS))
            scores.append(image_scores)
            peaks.append(maps.amax(dim=(1, 2)))
            pixels.append(maps[:, ::step, ::step].flatten())
        self.scores = torch.cat(scores).sort().values
        self.peaks = torch.cat(peaks).sort().values
        pixel = torch.cat(pixels).sort(descending=True).values
        self.tail = pixel[[int(share * len(pixel)) for share in SHARES]]

    def p_value(self, scores: Tensor) -> Tensor:
        """(1 + number of the m scores kept that are as high) / (m + 1), of scores (B,).

        1 where nothing is kept.
        """
        as_high = (self.scores >= scores.unsqueeze(-1)).sum(dim=-1)
        return (1 + as_high) / (1 + len(self.scores))

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

        It tells how far a region reaches that holds a pixel at or above `pixel_threshold`; on its
        own it is passed in many normal images.

        Raises:
            ValueError: the share is outside its range.
        """
        if not SHARES[0] <= share <= SHARES[-1]:
            raise ValueError(f"a share of the pixels must be within 1e-5 to 0.1, got {share:g}")
        return float(np.interp(math.log(share), np.log(SHARES), self.tail.cpu().numpy()))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("scores", "peaks"):  # as many as were kept
            held = state.get(prefix + name, self.get_buffer(name))
            setattr(self, name, torch.empty_like(held, device=self.tail.device))
        super()._load_from_state_dict(state, prefix, *rest)


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
    return float(torch.nextafter(scores[m - rank], scores.new_tensor(math.inf)))


@torch.no_grad()
def leave_one_out(
    statistics: PatchStatistics, sample: Sequence[Tensor], gaussian: PatchGaussian
) -> list[Tensor]:
    """Distances of training images under the Gaussian fitted without each of them, in closed form.

    With v = x - mu, s the amount of shrinkage, and C the mean of v v^T over the positions of the
    image, leaving x out of n images gives mu' = mu - v/(n - 1) and

        Sigma' = Sigma* - b v v^T - s D,
        Sigma* = (1 - s) (n - 1)/(n - 2) S + s T + eps I,   b = (1 - s) n/((n - 1) (n - 2)),
        D = (n/(n - 1) C - T)/(n - 2),

    so one factorisation serves all images. With u = Sigma*^-1 v and q = v^T u,

        q' = (n/(n - 1))^2 q / (1 - b q - s u^T D u / q),

    which is exact for s = 0, and otherwise the largest lower bound that u gives.

    Args:
        statistics: of n images, 2 at least.
        sample: the embedding of some of them, one (G_l, d_l, B) tensor a level.
        gaussian: the model's; its settings are used, not its fit.

    Returns:
        As the Gaussian gives: (B, H, W) on the finest grid; of an ensemble one a layer.

    Raises:
        ValueError: there is only one image, or a covariance is not positive definite.
    """
    n, levels, images = int(statistics.count), statistics.levels, sample[0].shape[-1]
    if n < 2:
        raise ValueError(f"to leave one image out takes 2 normal images or more, got {n}")
    if n < REFITS:
        each = ([x[..., i : i + 1] for x in sample] for i in range(images))
        refits = [_refit(statistics, image, gaussian) for image in each]
        return [torch.cat(layer) for layer in zip(*refits, strict=True)]
    amount, coarsest = gaussian.amount.item(), levels.cells[-1]
    target = pooled_covariance(statistics)
    b = (1 - amount) * n / ((n - 1) * (n - 2))
    change = _change_of_pooled(statistics, sample) if amount else None
    ensemble = levels.counts if gaussian.ensemble else None

    @torch.no_grad()
    def measure(chunk: Tensor) -> list[Tensor]:
        covariance = covariances(statistics, chunk)
        for pair, block in covariance.items():
            block.mul_((1 - amount) * (n - 1) / (n - 2)).add_(target[pair], alpha=amount)
        if ensemble:
            separate_layers(covariance, ensemble)
        whitening = whiten(covariance, gaussian.eps)
        here = [under(x, chunk, coarsest) for x in sample]
        means = [under(statistics.mean(i), chunk, coarsest)[..., None] for i in range(len(levels))]
        batches = []
        for first in range(0, images, BATCH):
            batch = slice(first, first + BATCH)
            centred = [
                x[..., batch].to(whitening[0, 0].dtype) - mean
                for x, mean in zip(here, means, strict=True)
            ]
            squared = []
            for member in _members(whitening, whitened(whitening, centred), ensemble):
                q = _squared(member.white)
                lost = b * q
                if change is not None:
                    own = change[batch][:, member.channels, member.channels]
                    u = _unwhitened(member).permute(2, 0, 1)
                    lost += amount * (u @ own * u).sum(dim=2).T / q.clamp(min=1e-9)
                squared.append(q / (1 - lost).clamp(min=1e-9))
            batches.append(squared)
        return [torch.cat(member, dim=1) for member in zip(*batches, strict=True)]

    grids = [level for level, layers in enumerate(ensemble or [[0]]) for _ in layers]
    chunks = each_chunk(statistics, torch.arange(coarsest), measure)
    return [
        levels.to_grid(n / (n - 1) * torch.cat(member).sqrt(), level).float()
        for level, member in zip(grids, zip(*chunks, strict=True), strict=True)
    ]


class _Member(NamedTuple):
    """One Gaussian: the joint one, or that of a layer of an ensemble."""

    whitening: LevelBlocks
    white: list[Tensor]
    channels: slice
    """Among all channels, fine to coarse."""


def _members(
    whitening: LevelBlocks, white: list[Tensor], counts: Sequence[Sequence[int]] | None
) -> list[_Member]:
    """Of an ensemble with `counts` channels a level and layer; of the joint Gaussian if None."""
    if counts is None:
        return [_Member(whitening, white, slice(None))]
    members, start = [], 0
    for level, layers in enumerate(counts):
        first = 0
        for count in layers:
            own = slice(first, first + count)
            block = {(0, 0): whitening[level, level][:, own, own]}
            channels = slice(start + own.start, start + own.stop)
            members.append(_Member(block, [white[level][:, own]], channels))
            first += count
        start += first
    return members


def _squared(white: Sequence[Tensor]) -> Tensor:
    """Squared distances (F, B) at the F finest positions."""
    fine = len(white[0])
    terms = [w.square().sum(dim=1).repeat_interleave(fine // len(w), dim=0) for w in white]
    return torch.stack(terms).sum(dim=0)


def _unwhitened(member: _Member) -> Tensor:
    """Sigma^-1 (x - mu) at each of the F finest positions, (F, d, B), channels fine to coarse.

    In float32: it corrects a distance, and is most of the work.
    """
    whitening = {pair: block.float() for pair, block in member.whitening.items()}
    fine = len(member.white[0])
    rest: list[Tensor] = []
    parts = []
    for level, w in enumerate(member.white):
        z = w.float().unsqueeze(1).expand(-1, fine // len(w), -1, -1)
        for finer, other in enumerate(rest):
            back = torch.einsum("gij,gkib->gkjb", whitening[finer, level], other)
            z = z - back.reshape(z.shape)
        rest.append(z)
        parts.append(torch.einsum("gij,gkib->gkjb", whitening[level, level], z).flatten(0, 1))
    return torch.cat(parts, dim=1)


def _change_of_pooled(statistics: PatchStatistics, sample: Sequence[Tensor]) -> Tensor:
    """D, what each image adds to the pooled covariance: (B, d, d), channels fine to coarse."""
    n, levels = int(statistics.count), statistics.levels
    centred = [x - statistics.mean(level).unsqueeze(-1) for level, x in enumerate(sample)]
    blocks: LevelBlocks = {}
    for (fine, coarse), pooled in pooled_covariance(statistics).items():
        cells, total = levels.cells[coarse], levels.cells[fine]
        under_cell = centred[fine].unflatten(0, (cells, total // cells)).sum(dim=1)
        own = torch.einsum("gib,gjb->bij", under_cell, centred[coarse]) / total
        blocks[fine, coarse] = (n / (n - 1) * own - pooled.float()) / (n - 2)
        blocks[coarse, fine] = blocks[fine, coarse].mT
    order = range(len(levels))
    return torch.cat([torch.cat([blocks[i, j] for j in order], dim=2) for i in order], dim=1)


def _refit(
    statistics: PatchStatistics, image: Sequence[Tensor], gaussian: PatchGaussian
) -> list[Tensor]:
    """Distances of an image, a (G_l, d_l, 1) tensor a level, under a fit without it."""
    n, levels = int(statistics.count), statistics.levels
    rest = PatchStatistics(levels).to(statistics.count.device)
    rest.count.fill_(n - 1)
    v = [x - statistics.mean(level).unsqueeze(-1) for level, x in enumerate(image)]
    for level, deviation in enumerate(v):
        rest.mean(level).copy_(statistics.mean(level) - deviation[..., 0] / (n - 1))
    if n > 2:  # the scatter of one image is 0 without rounding
        for fine, coarse in levels.pairs():
            scatter = statistics.scatter(fine, coarse)
            own = group(v[fine], levels.cells[coarse]) @ v[coarse].mT
            rest.scatter(fine, coarse).copy_(scatter - n / (n - 1) * own.view_as(scatter))
    refit = PatchGaussian(gaussian.eps, gaussian.amount.item(), gaussian.ensemble)
    refit.fit(rest)
    return refit(list(image))
