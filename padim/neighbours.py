"""Patches under the Gaussians of the positions around them, and the nearest of these.

Coarse terms are shared: whichever fine neighbour is looked at, the coarse cell of its Gaussian is
the patch's own or one beside it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from padim.factorisation import LevelBlocks, inner_products
from padim.levels import Levels

Offset = tuple[int, int]
"""Rows and columns from a patch to the Gaussian that it is compared with, in cells of a level."""


class Neighbourhood:
    """The positions within a radius of each, by the numbers of their cells.

    Args:
        levels: have the grids.
        radius: r, of a square of (2 r + 1)^2 positions on the finest grid; beyond the edge of the
            grid there is none.

    Raises:
        ValueError: the radius is negative, or reaches beyond the grid from everywhere.
    """

    def __init__(self, levels: Levels, radius: int) -> None:
        if not 0 <= radius < max(levels.grids[0]):
            height, width = levels.grids[0]
            raise ValueError(
                f"gaussian.neighbours must be from 0 to {max(levels.grids[0]) - 1} on a grid of"
                f" {height} x {width} positions, got {radius}"
            )
        self.levels, self.radius = levels, radius
        numbers = [_numbers(levels, level) for level in range(len(levels))]
        whole = Levels(levels.grids, [1] * len(levels))
        of_all = [_numbers(whole, level) for level in range(len(levels))]
        # All at once and not in PyTorch, or a model that is exported would hold how it is done.
        self._moved = [
            {o: _moved(of_level, o) for o in self.offsets(level)}
            for level, of_level in enumerate(numbers)
        ]
        self._above = {
            (fine, coarse): {
                o: self._offsets_above(of_all, fine, coarse, o) for o in self.offsets(fine)
            }
            for fine, coarse in levels.pairs()
            if fine != coarse
        }

    def offsets(self, level: int) -> list[Offset]:
        """Of the Gaussians' cells that a patch's cell is compared with; (0, 0) is the first."""
        sides = zip(self.levels.grids[level], self.levels.grids[0], strict=True)
        reach = [-(-self.radius * cells // positions) for cells, positions in sides]
        rows, columns = (range(-n, n + 1) for n in reach)
        return sorted(((y, x) for y in rows for x in columns), key=lambda o: (o != (0, 0), o))

    def gathered(self, values: Tensor, level: int, offset: Offset) -> Tensor:
        """For each cell, of (G, ...) that at an offset from it; another where there is none."""
        there, _ = self._moved[level][offset]
        return values.index_select(0, torch.from_numpy(there).to(values.device))

    def _offsets_above(
        self, numbers: Sequence[np.ndarray], fine: int, coarse: int, offset: Offset
    ) -> list[Offset]:
        """The offset in cells of a coarser level, of each of the fine cells under one of these."""
        (height, width), (rows, columns) = self.levels.grids[fine], self.levels.grids[coarse]
        high, wide = height // rows, width // columns
        order = numbers[fine][:high, :wide].argsort(axis=None)
        places = zip(*np.unravel_index(order, (high, wide)), strict=True)
        y, x = offset
        return [(-((int(r) - y) // high), -((int(c) - x) // wide)) for r, c in places]

    def compare(
        self, whitening: LevelBlocks, centred: Callable[[int, Offset], Tensor], inner: bool = False
    ) -> Iterator[tuple[Offset, Tensor]]:
        """Compare each Gaussian with the patches around its position.

        Args:
            whitening: of Gaussians under some cells of the coarsest level; see `PatchGaussian`.
            centred: gives, for a level and an offset, (G_l, d_l, B): the vectors of the cells from
                which that offset leads to the cells of the Gaussians, less the Gaussians' means.
            inner: also give inner products.

        Yields:
            An offset on the finest grid and (L, G_0, B), |w_l|^2 of each level of the patch there
            at each Gaussian; or (2 L, G_0, B), with the products of w_l and that of the Gaussian's
            own position behind.
        """
        white: list[dict[Offset, Tensor]] = [{} for _ in range(len(self.levels))]
        terms: list[dict[Offset, Tensor]] = [{} for _ in range(len(self.levels))]
        for level in reversed(range(len(self.levels))):
            product = _Products(whitening, white, level)
            for offset in self.offsets(level):
                x = centred(level, offset)
                w = torch.bmm(whitening[level, level], x) if x.shape[1] else x
                for coarse in range(level + 1, len(self.levels)):
                    if whitening[level, coarse].numel():
                        above = self._above[level, coarse][offset]
                        parts = [product(coarse, i, len(above), o) for i, o in enumerate(above)]
                        w.sub_(torch.stack(parts, dim=1).flatten(0, 1))
                white[level][offset] = w
                own = [inner_products(w, w)]
                if inner:
                    own.append(inner_products(w, white[level][0, 0]))
                found = torch.stack(own).unsqueeze(1)  # (1 or 2, 1, G_l, B)
                if level + 1 < len(self.levels):
                    found = self._joined(found, terms[level + 1], level, offset)
                if level:
                    terms[level][offset] = found
                else:
                    yield offset, found.flatten(0, 1)
                    if offset != (0, 0):
                        del white[level][offset]

    def _joined(
        self, own: Tensor, coarser: dict[Offset, Tensor], level: int, offset: Offset
    ) -> Tensor:
        """Terms of a level and, under each of its cells, those of the coarser ones."""
        above = self._above[level, level + 1][offset]
        beneath = torch.stack([coarser[there] for there in above], dim=3).flatten(2, 3)
        return torch.cat([own, beneath], dim=1)

    def nearest(self, terms: Iterator[tuple[Offset, Tensor]]) -> Tensor:
        """(L, G_0, B) terms of each patch under that Gaussian around it where their sum is least.

        Args:
            terms: at each Gaussian, as of `compare`, or anything of that shape.
        """
        least: Tensor | None = None
        found: Tensor | None = None
        for offset, at_gaussian in terms:
            parts = torch.stack([self.gathered(part, 0, offset) for part in at_gaussian])
            total = parts.sum(dim=0)
            if least is None or found is None:  # of its own position, which is always there
                least, found = total, parts
                continue
            inside = torch.from_numpy(self._moved[0][offset][1]).to(total.device)
            better = (total < least) & inside.unsqueeze(1)
            least, found = torch.where(better, total, least), torch.where(better, parts, found)
        assert found is not None
        return found


def _numbers(levels: Levels, level: int) -> np.ndarray:
    """(height, width): the number of the cell at each place of a level's grid, -1 for none."""
    number = torch.arange(levels.cells[level]).unsqueeze(1)
    return levels.to_grid(number, level, fill=-1)[0].numpy()


def _moved(numbers: np.ndarray, offset: Offset) -> tuple[np.ndarray, np.ndarray]:
    """For each cell, the number of that at an offset, or else of another; whether it is there."""
    places = np.ix_(*(np.arange(n) + by for n, by in zip(numbers.shape, offset, strict=True)))
    nearest = [p.clip(0, n - 1) for p, n in zip(places, numbers.shape, strict=True)]
    inside = (places[0] == nearest[0]) & (places[1] == nearest[1])
    there = numbers[tuple(nearest)]
    order = numbers.argsort(axis=None)[(numbers < 0).sum() :]
    return there.clip(0).flatten()[order], (inside & (there >= 0)).flatten()[order]


class _Products:
    """A_lm w_m under each fine cell of its coarser one, computed once for all fine offsets."""

    def __init__(
        self, whitening: LevelBlocks, white: list[dict[Offset, Tensor]], level: int
    ) -> None:
        self.whitening, self.white, self.level = whitening, white, level
        self._known: dict[tuple[int, int, Offset], Tensor] = {}

    def __call__(self, coarse: int, child: int, children: int, offset: Offset) -> Tensor:
        key = coarse, child, offset
        if key not in self._known:
            block = self.whitening[self.level, coarse].unflatten(0, (-1, children))[:, child]
            self._known[key] = torch.bmm(block, self.white[coarse][offset])
        return self._known[key]
