"""Distances of training images under the model fitted without them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from padim.factorisation import (
    LevelBlocks,
    deviations,
    each_chunk,
    left_out,
    pooled_covariance,
    separate_layers,
    under,
    whiten,
    whitened,
)
from padim.gaussian import PatchGaussian
from padim.levels import group
from padim.neighbours import Neighbourhood, Offset
from padim.statistics import PatchStatistics

BATCH = 32
"""Images worked on at a time; it bounds the memory."""

REFITS = 10
"""With fewer images than this each is left out by a fit of its own: quick, and exact."""


@torch.no_grad()
def leave_one_out(
    statistics: PatchStatistics, sample: Sequence[Tensor], gaussian: PatchGaussian
) -> list[Tensor]:
    """Distances of training images under the Gaussian fitted without each of them, in closed form.

    With v = x - mu, s the shrinkage coefficient, and C the mean of v v^T over the positions of the
    image, leaving x out of n images gives mu' = mu - v/(n - 1) and

        Sigma' = Sigma* - b v v^T - s D,
        Sigma* = (1 - s) (n - 1)/(n - 2) S + s T + eps I,   b = (1 - s) n/((n - 1) (n - 2)),
        D = (n/(n - 1) C - T)/(n - 2),

    so one factorisation serves all images. With u = Sigma*^-1 v and q = v^T u,

        q' = (n/(n - 1))^2 q / (1 - b q - s u^T D u / q),

    which is exact for s = 0, and otherwise the largest lower bound that u gives.

    With neighbours, a patch x' of the image is also compared with the Gaussians of other positions,
    which lose the image's own patches there. With w' and w of x' - mu and v whitened by Sigma*,
    y = w' + w/(n - 1) is that of x' - mu', and

        q' = |y|^2 + b (y^T w)^2 / (1 - b |w|^2),

    exact for s = 0; what the image is of the pooled covariance is left in where s > 0.

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
    coefficient, target = gaussian.coefficient.item(), pooled_covariance(statistics)
    change = _change_of_pooled(statistics, sample) if coefficient else None
    ensemble = levels.counts if gaussian.ensemble else None
    around = Neighbourhood(levels, gaussian.neighbours) if gaussian.neighbours else None

    @torch.no_grad()
    def measure(chunk: Tensor) -> list[Tensor]:
        covariance, b = left_out(statistics, target, coefficient, chunk)
        if ensemble:
            separate_layers(covariance, ensemble)
        whitening = whiten(covariance, gaussian.eps)
        batches = []
        for first in range(0, images, BATCH):
            batch = slice(first, first + BATCH)
            some = [x[..., batch] for x in sample]
            centred = deviations(statistics, some, chunk, whitening[0, 0].dtype)
            squared = []
            for member in _members(whitening, whitened(whitening, centred), ensemble):
                q = _squared(member.white)
                lost = b * q
                if change is not None:
                    own = change[batch][:, member.channels, member.channels]
                    u = _unwhitened(member).permute(2, 0, 1)
                    lost += coefficient * (u @ own * u).sum(dim=2).T / q.clamp(min=1e-9)
                squared.append(q / (1 - lost).clamp(min=1e-9))
            if around:
                beside = _beside(around, statistics, some, chunk, whitening, b)
                squared += [y / (1 - (lost - b * q)).float() for y in beside]
            batches.append(squared)
        return [torch.cat(member, dim=1) for member in zip(*batches, strict=True)]

    if around:
        at_gaussians = zip(
            *each_chunk(statistics, torch.arange(levels.cells[-1]), measure), strict=True
        )
        terms = (torch.cat(chunks).unsqueeze(0) for chunks in at_gaussians)
        least = around.nearest(zip(around.offsets(0), terms, strict=True))[0]
        return [levels.to_grid(n / (n - 1) * least.sqrt()).float()]
    grids = [level for level, layers in enumerate(ensemble or [[0]]) for _ in layers]
    chunks = each_chunk(statistics, torch.arange(levels.cells[-1]), measure)
    return [
        levels.to_grid(n / (n - 1) * torch.cat(member).sqrt(), level).float()
        for level, member in zip(grids, zip(*chunks, strict=True), strict=True)
    ]


def _beside(
    around: Neighbourhood,
    statistics: PatchStatistics,
    sample: Sequence[Tensor],
    cells: Tensor,
    whitening: LevelBlocks,
    b: float,
) -> list[Tensor]:
    """q' (n - 1)^2/n^2, (F, B) in float32, of the patches at each offset but 0 from Gaussians."""
    n, total = int(statistics.count), statistics.levels.cells[-1]

    def centred(level: int, offset: Offset) -> Tensor:
        x = around.gathered(sample[level], level, (-offset[0], -offset[1]))
        mean = under(statistics.mean(level), cells, total)
        return under(x, cells, total).to(whitening[0, 0].dtype) - mean.unsqueeze(-1)

    found: list[Tensor] = []
    own = torch.empty(0)
    for offset, terms in around.compare(whitening, centred, inner=True):
        squared, product = (part.sum(dim=0) for part in terms.chunk(2))
        if offset == (0, 0):
            own = squared
            continue
        y = squared + 2 / (n - 1) * product + own / (n - 1) ** 2
        y += b * (product + own / (n - 1)).square() / (1 - b * own).clamp(min=1e-9)
        found.append((y * ((n - 1) / n) ** 2).float())
    return found


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
    refit = PatchGaussian(**{**gaussian.config, "shrinkage": gaussian.coefficient.item()})
    refit.fit(rest)
    distances: list[Tensor] = refit(list(image))
    return distances
