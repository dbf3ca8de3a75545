"""Models that are part of a wider one: their statistics and embeddings are slices of its own."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from padim.backbone import Layer
from padim.levels import Levels
from padim.model import PaDiM


def channels_by_layer(model: PaDiM) -> dict[str, Tensor]:
    """Name of each layer -> the channels of it that the model uses, sorted."""
    names = [layer.name for layer in model.backbone.layers]
    return dict(zip(names, model.channels, strict=True))


def union_of_channels(
    parts: Sequence[Mapping[str, Tensor]], layers: Sequence[Layer]
) -> list[Tensor]:
    """For each layer, the sorted channels of it that any of the parts uses.

    Args:
        parts: of models on layers of one backbone, as of `channels_by_layer`.
        layers: of the backbone.
    """
    nothing = torch.empty(0, dtype=torch.int64)
    return [
        torch.cat([part.get(layer.name, nothing) for part in parts]).unique() for layer in layers
    ]


class ModelSlice:
    """The place of a model's channels among those of a wider one on the same backbone.

    It holds for the channels that the model has when the slice is made: one that learns which to
    keep needs another when it is fitted.

    Args:
        whole: uses all channels of the part, and more; without a projection.
        part: the model.

    Raises:
        ValueError: the grids of the whole do not contain those of the part, as where everything was
            put on one grid because the grids do not nest.
    """

    def __init__(self, whole: PaDiM, part: PaDiM) -> None:
        levels = part.channel_levels
        if not set(levels.grids) <= set(whole.levels.grids):
            raise ValueError(f"grids {levels.grids} are not all among {whole.levels.grids}")
        offsets: dict[str, tuple[int, int]] = {}
        wide = channels_by_layer(whole)
        names = list(wide)
        for level, layers in enumerate(whole.levels.layers):
            start = 0
            for i in layers:
                offsets[names[i]] = level, start
                start += len(wide[names[i]])
        narrow = channels_by_layer(part)
        self.whole = whole
        self.part = part
        self.sources = [whole.levels.grids.index(grid) for grid in levels.grids]
        self.channels = [
            torch.cat(
                [
                    torch.searchsorted(wide[name], narrow[name]) + offsets[name][1]
                    for name in (list(narrow)[i] for i in layers)
                ]
            )
            for layers in levels.layers
        ]
        self.positions = [
            _renumbered(whole.levels, source, levels, level)
            for level, source in enumerate(self.sources)
        ]

    def embedding(self, whole: Sequence[Tensor]) -> list[Tensor]:
        """The part's embedding, one (G_l, d_l, B) tensor a level, from the whole's."""
        chosen = zip(self.sources, self.channels, self.positions, strict=True)
        return self.part.project([whole[s][:, channels][at] for s, channels, at in chosen])

    def fit(self) -> None:
        """Give the part the statistics it would have had alone, and finalise it."""
        part = self.part
        statistics = self.whole.statistics.select(
            part.channel_levels, self.sources, self.channels, self.positions
        )
        projected = part.projection is not None
        part.statistics = statistics.project(part.matrices()) if projected else statistics
        if (own := part.sample) and (wide := self.whole.sample):
            kept = [x[..., : own.size] for x in wide.embedding]
            own.replace(self.embedding(kept), wide.keys[: own.size], wide.seen)
        part.finalize()


def _renumbered(whole: Levels, source: int, part: Levels, level: int) -> Tensor:
    """For each position of a level, its number among those of the same grid in other levels.

    Positions are numbered by the coarser cells they lie under, and a part may have fewer of these.
    """
    there, here = (
        levels.to_grid(torch.arange(levels.cells[own]).unsqueeze(1), own, fill=-1).flatten()
        for levels, own in ((whole, source), (part, level))
    )
    positions = torch.empty(part.cells[level], dtype=torch.int64)
    positions[here[here >= 0]] = there[here >= 0]
    return positions
