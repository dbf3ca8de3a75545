"""The grids of the feature maps, numbered so that a cell keeps its fine positions together."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


class Levels:
    """One grid a level, finest first, and the layers that live on each.

    Layers of equal grid share a level. Where each grid is an integer multiple of the next
    coarser one, nearest resizing merely repeats a coarse vector over a block of fine positions,
    so each level keeps its own grid. Otherwise everything is put on the finest grid as one level.

    Positions are numbered cell by cell: the K fine positions under one coarse cell follow each
    other. A tensor over G_fine positions therefore *views* as (G_coarse, K, ...), and all algebra
    between two levels is one batched product over the coarse cells, without a repeated copy.

    Cells of the coarsest level that see no pixel of interest can be left out, with all positions
    under them.

    Args:
        grids: (height, width) of each layer's feature map.
        channels: number of channels kept of each layer; 0 is allowed.
        seen: bool (H, W), the pixels of interest; None for all.

    Attributes:
        grids: (height, width) of each level, finest first.
        layers: which of the layers given live on each level.
        channels: d_l, the number of channels on each level.
        indices: for each level, which of the concatenated channels of all layers live on it.
        counts: for each level, how many of its channels each of its layers has.
        cells: G_l, the number of positions of each level.
        seen: as given.

    >>> levels = Levels([(56, 56), (28, 28), (28, 28)], [30, 20, 50])
    >>> levels.grids, levels.layers, levels.channels
    (((56, 56), (28, 28)), [[0], [1, 2]], (30, 70))
    >>> Levels([(3, 3), (2, 2)], [30, 20]).channels  # these grids do not nest
    (50,)
    """

    def __init__(
        self, grids: Sequence[Grid], channels: Sequence[int], seen: Tensor | None = None
    ) -> None:
        if not grids or len(grids) != len(channels):
            raise ValueError(
                f"{len(grids)} grids and {len(channels)} channel counts do not pair up"
            )
        unique = sorted(set(grids), reverse=True)
        nested = all(
            fine[0] % coarse[0] == 0 and fine[1] % coarse[1] == 0
            for fine, coarse in pairwise(unique)
        )
        if not nested:
            unique = [(max(h for h, _ in unique), max(w for _, w in unique))]
        self.grids: tuple[Grid, ...] = tuple(unique)
        self.layers = [
            [i for i, grid in enumerate(grids) if not nested or grid == level]
            for level in self.grids
        ]
        by_layer = torch.arange(sum(channels)).split(list(channels))
        self.indices = [torch.cat([by_layer[i] for i in layers]) for layers in self.layers]
        self.counts = [[channels[i] for i in layers] for layers in self.layers]
        self.channels = tuple(map(sum, self.counts))
        self.seen = seen
        whole = kept = math.prod(self.grids[-1])
        self._kept: Tensor | None = None
        if seen is not None:
            there = seen_cells(seen, self.grids[-1]).flatten()
            self._kept = there.nonzero()[:, 0]
            kept = len(self._kept)
            # Of each cell its number among those kept; those left out share the one behind these.
            self._number = torch.where(there, there.cumsum(0) - 1, kept)
        self.cells = tuple(h * w // whole * kept for h, w in self.grids)

    def __len__(self) -> int:
        return len(self.grids)

    def projected(self, d: int) -> "Levels":
        """Levels on the same grids whose finest has all of d channels."""
        return Levels(self.grids, [d, *[0] * (len(self) - 1)], self.seen)

    def pairs(self) -> list[tuple[int, int]]:
        """All (l, m) with m the same level as l or a coarser one."""
        return [(fine, coarse) for fine in range(len(self)) for coarse in range(fine, len(self))]

    def embed(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Arrange the reduced feature maps of all layers by level.

        Args:
            maps: one (B, channels, height, width) tensor a layer.

        Returns:
            One contiguous (G_l, d_l, B) tensor a level, positions numbered cell by cell.
        """
        embedding = []
        for level, grid in enumerate(self.grids):
            on_grid = [
                m if tuple(m.shape[2:]) == grid else F.interpolate(m, grid, mode="nearest")
                for m in (maps[i] for i in self.layers[level])
            ]
            x = on_grid[0] if len(on_grid) == 1 else torch.cat(on_grid, dim=1)
            rows, columns = self._factors(level)
            n = len(rows)
            by_cell = [axis for i in range(n) for axis in (2 + i, 2 + n + i)]
            x = x.unflatten(3, columns).unflatten(2, rows).permute(*by_cell, 1, 0)
            x = x.reshape(math.prod(grid), self.channels[level], x.shape[-1])
            if self._kept is not None:
                under = x.unflatten(0, (math.prod(self.grids[-1]), -1))
                x = under.index_select(0, self._kept.to(x.device)).flatten(0, 1)
            embedding.append(x)
        return embedding

    def to_grid(self, values: Tensor, level: int = 0, fill: float = 0) -> Tensor:
        """Undo the numbering: (G_l, B) values of a level to (B, height, width) on its grid.

        What is left out becomes `fill`.
        """
        if self._kept is not None:
            under = values.unflatten(0, (len(self._kept), -1))
            padded = torch.cat([under, torch.full_like(under[:1], fill)])
            values = padded.index_select(0, self._number.to(values.device)).flatten(0, 1)
        rows, columns = self._factors(level)
        n = len(rows)
        interleaved = [size for pair in zip(rows, columns, strict=True) for size in pair]
        x = values.reshape(*interleaved, values.shape[1])
        x = x.permute(2 * n, *range(0, 2 * n, 2), *range(1, 2 * n, 2))
        return x.reshape(values.shape[1], *self.grids[level])

    def spread(self, values: Tensor, source: int, target: int) -> Tensor:
        """Repeat (G_source, ...) values of a coarse level over the cells of a finer one."""
        return values.repeat_interleave(self.cells[target] // self.cells[source], dim=0)

    def _factors(self, level: int) -> tuple[list[int], list[int]]:
        """Heights and widths of the nested blocks, from the coarsest grid down to this level."""
        chain = list(reversed(self.grids[level:]))
        rows, columns = [chain[0][0]], [chain[0][1]]
        for coarse, fine in pairwise(chain):
            rows.append(fine[0] // coarse[0])
            columns.append(fine[1] // coarse[1])
        assert math.prod(rows) * math.prod(columns) == math.prod(self.grids[level])
        return rows, columns


def seen_cells(seen: Tensor, grid: Grid) -> Tensor:
    """bool (..., height, width): whether cells of a grid hold pixels (..., H, W) that are seen."""
    return F.adaptive_max_pool2d(seen[None].float(), grid)[0] > 0


def group(values: Tensor, cells: int) -> Tensor:
    """View (G_l, d, c) as (cells, K * d, c): what lies under each cell of a coarser level."""
    rows = values.shape[0] * values.shape[1] // cells  # -1 would not do where d = 0
    return values.view(cells, rows, values.shape[2])
