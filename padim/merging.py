"""Models of the same configuration that were fitted on different images, added up."""

import copy

import torch

from padim.model import PaDiM


@torch.no_grad()
def merge(model: PaDiM, other: PaDiM) -> None:
    """Add what another model has seen to a model; `finalize` makes it that of all their images.

    The statistics are exact. Shrinkage that each has chosen becomes the mean weighted by their
    images, and of calibration scores those are kept that were measured for each.

    Raises:
        ValueError: the models differ in more than their images.
    """
    if found := difference(model, other):
        raise ValueError(f"models do not merge that differ in {found}")
    n, more = model.statistics.count.clone(), other.statistics.count
    model.statistics.merge(other.statistics)
    model.gaussian.coefficient.lerp_(other.gaussian.coefficient, more / (n + more))
    if model.calibration and other.calibration:
        model.calibration.merge(other.calibration)
        model.earlier = [copy.deepcopy(model.calibration)]
    if model.sample:
        model.sample.replace([], model.sample.keys[:0], 0)  # it was of one model's images alone


def difference(model: PaDiM, other: PaDiM) -> str | None:
    """The first thing but their images in which two models differ, in words; None if none.

    Where the weights of a backbone came from does not count, but what they are.
    """
    for part, mine in model.config.items():
        own, theirs = mine or {}, other.config[part] or {}
        for key in own | theirs:
            if own.get(key) != theirs.get(key) and (part, key) != ("backbone", "weights"):
                return f"{part}.{key}: {own.get(key)!r} and {theirs.get(key)!r}"
    weights = other.backbone.state_dict()
    for name, tensor in model.backbone.state_dict().items():
        if not torch.equal(tensor, weights[name]):
            return f"the weights of their backbones ({name})"
    if not _equal(model.ignored, other.ignored):
        return "the pixels that they ignore"
    if not all(map(_equal, _kept(model), _kept(other))):
        return "what each has learned to keep from its own images (reduction)"
    return None


def _kept(model: PaDiM) -> list[torch.Tensor | None]:
    return [*model.channels, model.projection]


def _equal(mine: torch.Tensor | None, theirs: torch.Tensor | None) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return torch.equal(mine, theirs)
