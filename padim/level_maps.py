"""The part of each semantic level in an anomaly map."""

from itertools import chain

import torch
from torch import Tensor

from padim.model import PaDiM


@torch.no_grad()
def level_maps(
    model: PaDiM, embedding: list[Tensor], ignored: Tensor | None = None
) -> dict[str, Tensor]:
    """Divide anomaly maps among the levels; the sum of the parts is the map.

    The squared distance of a patch is a sum of one term a level, that of a level given the coarser
    ones; the distance is divided in the same proportions. Resizing and smoothing are linear. An
    ensemble is a sum over its layers to begin with.

    Args:
        model: fitted.
        embedding: of the images, one (G_l, d_l, B) tensor a level.
        ignored: bool (B, H, W), as of `PaDiM.score`.

    Returns:
        (B, H, W) a level by the names of its layers, the finest first, or a layer of an ensemble.
        What a projection has mixed is one level, "all".
    """
    levels = model.levels
    names = [
        [model.backbone.layers[i].name for i in layers] for layers in model.channel_levels.layers
    ]
    if model.gaussian.ensemble:
        distances = model.gaussian(embedding)
        maps = (model.smoothed(distance, ignored) for distance in distances)
        return dict(zip(chain(*names), maps, strict=True))
    terms = model.gaussian.terms(embedding)
    distance = torch.stack(terms).sum(dim=0).sqrt().clamp_min(1e-12)  # 0 / 0 is to be 0
    return {
        "all" if model.projection is not None else "+".join(name): model.smoothed(
            levels.to_grid(term / distance), ignored
        )
        for name, term, channels in zip(names, terms, levels.channels, strict=True)
        if channels
    }
