import copy

import pytest
import torch

from oracle import statistics_error
from padim import (
    AllChannels,
    AnomalyMap,
    Backbone,
    Calibration,
    PaDiM,
    PatchGaussian,
    PrincipalComponents,
    RandomChannels,
    merge,
)
from padim.reduction import Reduction
from padim.sample import image_keys

SIZE = (64, 64)


def images(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, *SIZE), dtype=torch.uint8, generator=generator)


FIRST, SECOND, NEW = images(17, 0), images(9, 1), images(4, 2)


def backbone(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return Backbone("test_resnet", [1, 2, 3], "random", SIZE)


def fitted(x: torch.Tensor, first_key: int = 0, calibration: int = 256, **parts: object) -> PaDiM:
    defaults = {"reduction": RandomChannels(20), "calibration": Calibration(calibration, 0.1)}
    model = PaDiM(backbone(), **{**defaults, **parts})
    model.accumulate(model.backbone(x), image_keys(range(first_key, first_key + len(x))))
    model.finalize()
    return model


def loaded(model: PaDiM) -> PaDiM:
    """What a model file gives back."""
    other = PaDiM.from_config(model.config)
    other.load_state_dict(model.state_dict())
    return other


def assert_same_gaussians(one: PaDiM, other: PaDiM) -> None:
    assert statistics_error(one.statistics, other.statistics) < 1e-6
    torch.testing.assert_close(one(NEW).maps, other(NEW).maps, rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", [RandomChannels(20), AllChannels()])
def test_update_and_merge_equal_a_fit_of_all_images(reduction: Reduction) -> None:
    everything = fitted(torch.cat([FIRST, SECOND]), reduction=reduction)
    updated = loaded(fitted(FIRST, reduction=reduction))
    updated.update(SECOND)
    updated.finalize()
    merged = loaded(fitted(FIRST, reduction=reduction))
    merge(merged, fitted(SECOND, reduction=reduction))
    merged.finalize()
    for model in (updated, merged):
        assert model.statistics.count == 26
        assert_same_gaussians(model, everything)
        assert_same_gaussians(loaded(model), everything)


def test_updated_model_keeps_what_the_images_before_scored() -> None:
    first = fitted(FIRST)
    updated = loaded(first)
    updated.accumulate(updated.backbone(SECOND), image_keys(range(100, 109)))
    updated.finalize()
    everything = fitted(torch.cat([FIRST, SECOND]))
    known = dict(zip(first.calibration.keys.tolist(), first.calibration.scores, strict=True))
    new = image_keys(range(100, 109)).tolist()
    # Of the new ones the scores are those that a fit of all images gives.
    ours = dict(zip(updated.calibration.keys.tolist(), updated.calibration.scores, strict=True))
    theirs = dict(
        zip(everything.calibration.keys.tolist(), everything.calibration.scores, strict=True)
    )
    assert ours.keys() == known.keys() | set(new)
    assert all(ours[key] == score for key, score in known.items())
    for key, same in zip(new, image_keys(range(17, 26)).tolist(), strict=True):
        torch.testing.assert_close(ours[key], theirs[same], rtol=1e-4, atol=0)


def test_later_images_are_scored_once_however_often_a_model_is_finalised() -> None:
    model = fitted(FIRST)
    model.update(SECOND)
    model.finalize()
    model.finalize()
    assert len(model.calibration.scores) == 26


def test_merged_calibrations_are_drawn_from_all_images_alike() -> None:
    one, other = fitted(FIRST, calibration=8), fitted(SECOND, first_key=17, calibration=8)
    scores = torch.cat([one.calibration.scores, other.calibration.scores])
    keys = torch.cat([one.calibration.keys, other.calibration.keys])
    smallest = image_keys(range(26)).sort().values[:8]
    merge(one, other)
    assert torch.equal(one.calibration.keys, smallest)
    expected = [scores[keys == key].item() for key in smallest]
    assert one.calibration.scores.tolist() == expected
    assert one.calibration.tail.isfinite().all()


def test_nothing_seen_merges_too() -> None:
    empty = PaDiM(backbone(), RandomChannels(20), calibration=Calibration(256, 0.1))
    full = fitted(FIRST)
    merge(empty, full)
    empty.finalize()
    assert_same_gaussians(empty, full)
    assert torch.equal(empty.calibration.tail, full.calibration.tail)
    before = copy.deepcopy(full.calibration)
    merge(full, PaDiM(backbone(), RandomChannels(20), calibration=Calibration(256, 0.1)))
    for name in ("keys", "scores", "peaks", "means", "tail"):
        assert torch.equal(getattr(full.calibration, name), getattr(before, name))


def test_shrinkage_is_the_mean_weighted_by_images() -> None:
    parts = [fitted(x, gaussian=PatchGaussian(shrinkage="auto")) for x in (FIRST, SECOND)]
    coefficients = [float(part.gaussian.coefficient) for part in parts]
    merge(*parts)
    expected = (17 * coefficients[0] + 9 * coefficients[1]) / 26
    assert parts[0].gaussian.coefficient.item() == pytest.approx(expected)


def uncalibrated() -> PaDiM:
    model = PaDiM(backbone(), RandomChannels(20))
    model.update(SECOND)
    return model


def other_weights() -> PaDiM:
    model = PaDiM(backbone(seed=1), RandomChannels(20), calibration=Calibration(256, 0.1))
    model.update(SECOND)
    return model


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda: fitted(SECOND, reduction=RandomChannels(19)), r"reduction\.d: 20 and 19"),
        (lambda: fitted(SECOND, reduction=RandomChannels(20, seed=1)), r"reduction\.seed: 0 and 1"),
        (lambda: fitted(SECOND, anomaly_map=AnomalyMap(2)), r"map\.sigma: .* and 2"),
        (uncalibrated, r"calibration\.images: 256 and None"),
        (other_weights, r"the weights of their backbones \("),
    ],
)
def test_what_differs_is_named(other, difference: str) -> None:
    model = fitted(FIRST)
    with pytest.raises(ValueError, match=f"do not merge that differ in {difference}"):
        merge(model, other())
    assert model.statistics.count == 17


def test_models_that_learned_different_projections() -> None:
    one, other = (fitted(x, reduction=PrincipalComponents(10)) for x in (FIRST, SECOND))
    with pytest.raises(ValueError, match=r"what each has learned .* \(reduction\)"):
        merge(one, other)
