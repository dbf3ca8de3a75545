"""Sufficient statistics of the patch embeddings: count, means and scatters, level by level."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from padim.levels import Levels, group
from padim.precision import full_precision


class PatchStatistics(nn.Module):
    """Additive statistics of all images seen so far; their size does not grow with the images.

    For each level l the mean on its own grid, and for each pair of a level and itself or a
    coarser one the scatter (sum of outer products of deviations from the mean). A batch is merged
    by the pairwise update of Chan, Golub and LeVeque (1983): the between-batch term enters as one
    more row of the centred batch, so that a pair of levels costs one `baddbmm`.

    >>> statistics = PatchStatistics(Levels([(1, 1)], [2]))
    >>> for batch in ([[1.0, 3], [0, 0]], [[5.0], [3]]):  # columns are images
    ...     statistics.update([torch.tensor([batch])])
    >>> statistics.mean(0)
    tensor([[3., 1.]])
    >>> statistics.scatter(0, 0).round()
    tensor([[[8., 6.],
             [6., 6.]]])

    The size is 4 * sum_l G_l d_l (1 + sum_{m >= l} d_m) bytes.

    Buffers:
        count: number of images, int64.
        mean_{l}: (G_l, d_l).
        scatter_{l}_{m}: (G_l, d_l, d_m), m = l or coarser.
    """

    count: Tensor

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        for level in range(len(levels)):
            self.register_buffer(
                f"mean_{level}", torch.zeros(levels.cells[level], levels.channels[level])
            )
        for fine, coarse in levels.pairs():
            size = levels.cells[fine], levels.channels[fine], levels.channels[coarse]
            self.register_buffer(f"scatter_{fine}_{coarse}", torch.zeros(size))

    def mean(self, level: int) -> Tensor:
        """(G_l, d_l) mean embedding of a level."""
        return self.get_buffer(f"mean_{level}")

    def scatter(self, fine: int, coarse: int) -> Tensor:
        """(G_fine, d_fine, d_coarse) scatter of a level with itself or a coarser one."""
        return self.get_buffer(f"scatter_{fine}_{coarse}")

    @property
    def are_constant(self) -> bool:
        """Whether several images have been seen that are all the same, to rounding."""
        levels = range(len(self.levels))
        scatter = sum(self.scatter(n, n).diagonal(dim1=1, dim2=2).sum() for n in levels)
        energy = sum(self.mean(n).square().sum() for n in levels) * self.count
        return bool(self.count > 1 and scatter <= 1e-12 * energy)

    @staticmethod
    def bytes_for(levels: Levels) -> int:
        """Size of the statistics of some levels, before they are made."""
        d = levels.channels
        return 4 * sum(g * d[i] * (1 + sum(d[i:])) for i, g in enumerate(levels.cells))

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.bytes_for(self.levels)

    def select(
        self,
        levels: Levels,
        sources: Sequence[int],
        channels: Sequence[Tensor],
        positions: Sequence[Tensor] | None = None,
    ) -> "PatchStatistics":
        """The statistics of some of the channels: what they would be without the others.

        Args:
            levels: of the selection.
            sources: for each of them, the level of the same grid here.
            channels: for each of them, (d_l,) indices into that level's channels.
            positions: for each of them, (G_l,) indices into that level's positions; None where
                they are the same.
        """
        part = PatchStatistics(levels).to(self.count.device)
        part.count.copy_(self.count)
        for level, source in enumerate(sources):
            mean = self.mean(source)[:, channels[level]]
            part.mean(level).copy_(mean if positions is None else mean[positions[level]])
        for fine, coarse in levels.pairs():
            scatter = self.scatter(sources[fine], sources[coarse])
            chosen = scatter[:, channels[fine]][:, :, channels[coarse]]
            part.scatter(fine, coarse).copy_(
                chosen if positions is None else chosen[positions[fine]]
            )
        return part

    @full_precision
    def project(self, matrices: Sequence[Tensor]) -> "PatchStatistics":
        """The statistics of y = sum_l P_l^T x_l, on the finest grid.

        Args:
            matrices: P_l, one (d_l, d) a level.
        """
        whole = PatchStatistics(self.levels.projected(matrices[0].shape[1])).to(self.count.device)
        whole.count.copy_(self.count)
        for level, matrix in enumerate(matrices):
            self._spread(whole.mean(0), self.mean(level) @ matrix)
            scatter = matrix.T @ self.scatter(level, level) @ matrix
            for coarse in range(level + 1, len(self.levels)):
                mixed = matrix.T @ self.scatter(level, coarse) @ matrices[coarse]
                scatter += mixed + mixed.mT
            self._spread(whole.scatter(0, 0), scatter)
        return whole

    @staticmethod
    def _spread(fine: Tensor, coarse: Tensor) -> None:
        """Add (G_l, ...) values of a coarse level to all positions of the finest under them."""
        fine.unflatten(0, (len(coarse), -1)).add_(coarse.unsqueeze(1))

    @full_precision
    def update(self, embedding: list[Tensor]) -> None:
        """Add a batch.

        Args:
            embedding: one (G_l, d_l, B) tensor a level, as `Levels.embed` gives.
        """
        batch = embedding[0].shape[-1]
        means = [x.mean(dim=-1) for x in embedding]
        centred = [x - m.unsqueeze(-1) for x, m in zip(embedding, means, strict=True)]
        self._add(batch, means, centred)

    @full_precision
    def merge(self, other: "PatchStatistics") -> None:
        """Add the statistics of other images; the result is that of all images seen at once."""
        if other.levels.grids != self.levels.grids or other.levels.channels != self.levels.channels:
            raise ValueError(
                f"statistics over {other.levels.grids} with {other.levels.channels} channels do not"
                f" merge with {self.levels.grids} with {self.levels.channels} channels"
            )
        for fine, coarse in self.levels.pairs():
            self.scatter(fine, coarse).add_(other.scatter(fine, coarse))
        means = [other.mean(level) for level in range(len(self.levels))]
        self._add(other.count, means, [m.new_empty(*m.shape, 0) for m in means])

    def clear(self) -> None:
        """Forget all images."""
        for buffer in self.buffers():
            buffer.zero_()

    @full_precision
    def all_reduce(self) -> None:
        """Make each process's statistics those of the images of all processes.

        With n_i images of mean m_i in process i, and m the mean of all, the scatter is the sum of
        scatter_i + n_i (m_i - m)(m_i - m)^T. No process holds the scatter of another.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        total = self.count.clone()
        dist.all_reduce(total)
        columns = []
        for level in range(len(self.levels)):
            own = self.mean(level)
            mean = own.double() * (self.count.double() / total.clamp(min=1))
            dist.all_reduce(mean)
            columns.append((self.count.sqrt() * (own - mean)).float().unsqueeze(-1))
            own.copy_(mean)
        for fine, coarse in self.levels.pairs():
            self._add_products(fine, coarse, columns)
            dist.all_reduce(self.scatter(fine, coarse))
        self.count.copy_(total)

    def _add(self, count: int | Tensor, means: list[Tensor], centred: list[Tensor]) -> None:
        """Merge `count` images of the given means and centred columns (G_l, d_l, any number)."""
        total = self.count + count
        share = count / total.clamp(min=1)
        between = (self.count * share).sqrt()
        columns = []
        for level, (mean, x) in enumerate(zip(means, centred, strict=True)):
            shift = mean - self.mean(level)
            columns.append(torch.cat([x, (between * shift).unsqueeze(-1)], dim=-1))
            self.mean(level).add_(share * shift)
        for fine, coarse in self.levels.pairs():
            self._add_products(fine, coarse, columns)
        self.count.copy_(total)

    def _add_products(self, fine: int, coarse: int, columns: list[Tensor]) -> None:
        """Add to a scatter the outer products of columns, one (G_l, d_l, any number) a level."""
        cells = self.levels.cells[coarse]
        group(self.scatter(fine, coarse), cells).baddbmm_(
            group(columns[fine], cells), columns[coarse].mT
        )
