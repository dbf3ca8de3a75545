"""Pixels that are not looked at: no Gaussian, no score, no threshold and no metric has them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from correlated import NESTED, features
from padim import (
    AllChannels,
    AnomalyMap,
    Backbone,
    Calibration,
    ImageScore,
    Levels,
    ModelSlice,
    PaDiM,
    PatchGaussian,
    PatchStatistics,
    PixelMetrics,
    PrincipalComponents,
    RandomChannels,
    level_maps,
    merge,
)
from padim.calibration import sampled
from padim.deployment import Deployment, difference, export
from padim.leave_one_out import leave_one_out
from padim.sample import image_keys

SIDE = 64


def left_half() -> Tensor:
    """The left half of an image of `SIDE`, and a little more."""
    ignored = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    ignored[:, : SIDE // 2 + 3] = True
    return ignored


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone("test_resnet", [1, 2, 3], "random", (SIDE, SIDE))


def images(number: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(110, 140, (number, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


def fitted(backbone: Backbone, ignored: Tensor | None, **parts: Any) -> PaDiM:
    model = PaDiM(backbone, **{"reduction": RandomChannels(12), **parts}, ignored=ignored)
    model.update(images(30))
    model.finalize()
    return model.eval()


@pytest.mark.parametrize(
    ("grids", "channels"),
    [(NESTED, [3, 5, 8]), ([(8, 8), (2, 2)], [2, 0]), ([(7, 7), (4, 4)], [3, 4])],
)
@pytest.mark.parametrize("radius", [0, 1])
def test_what_is_seen_is_as_it_would_be(grids: list, channels: list, radius: int) -> None:
    train, test = features(30, grids, channels, 0), features(4, grids, channels, 1)
    seen = torch.zeros(64, 64, dtype=torch.bool)
    seen[:30, 34:] = True  # one of four cells of the coarsest grid
    found = {}
    for name, some in (("whole", None), ("part", seen)):
        levels = Levels(grids, channels, some)
        statistics = PatchStatistics(levels)
        statistics.update(levels.embed(train))
        gaussian = PatchGaussian(neighbours=radius)
        gaussian.fit(statistics)
        distances = gaussian(levels.embed(test))[0]
        (left_out,) = leave_one_out(statistics, levels.embed(train), gaussian)
        found[name] = distances, left_out, statistics.nbytes
    height, width = found["whole"][0].shape[1:]
    inside = slice(0, height // 2 - radius), slice(width // 2 + radius + (height % 2), width)
    for whole, part in zip(found["whole"][:2], found["part"][:2], strict=True):
        torch.testing.assert_close(part[:, *inside], whole[:, *inside], rtol=1e-4, atol=1e-5)
        assert not part[:, height // 2 + 1 :].any()
    assert found["part"][2] < found["whole"][2] * (0.26 if len(levels.grids) > 1 else 0.4)


@pytest.mark.parametrize("score", [ImageScore(), ImageScore("max_raw"), ImageScore("topk_mean")])
def test_a_defect_that_is_ignored_changes_nothing(backbone: Backbone, score: ImageScore) -> None:
    model = fitted(backbone, left_half(), image_score=score, anomaly_map=AnomalyMap(2))
    test = images(4, 1)
    defect = test.clone()
    defect[:, :, 20:40, :10] = 255
    clean, spoilt = model(test), model(defect)
    assert not clean.maps[:, left_half()].any()
    # What the network sees from afar is all that differs.
    torch.testing.assert_close(spoilt.scores, clean.scores, rtol=0.05, atol=0)
    everywhere = fitted(backbone, None, image_score=score, anomaly_map=AnomalyMap(2))
    assert everywhere(defect).scores.sum() > 1.1 * everywhere(test).scores.sum()


@pytest.mark.parametrize("score", [ImageScore(), ImageScore("max_raw"), ImageScore("topk_mean")])
def test_pixels_of_one_image_are_as_if_ignored_in_all(
    backbone: Backbone, score: ImageScore
) -> None:
    own = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    own[1] = left_half()
    whole, part = (fitted(backbone, ignored, image_score=score) for ignored in (None, left_half()))
    embedding = whole.embed(backbone(images(4, 1)))
    found, unmasked, masked = (
        whole.score(embedding, own),
        whole.score(embedding),
        part(images(4, 1)),
    )
    for one, none, all_of_them in zip(found, unmasked, masked, strict=True):
        others = [0, 2, 3]
        torch.testing.assert_close(one[others], none[others])
        torch.testing.assert_close(one[1], all_of_them[1], rtol=1e-4, atol=1e-4)
    parts = level_maps(whole, embedding, own)
    torch.testing.assert_close(sum(parts.values()), found.maps, rtol=1e-4, atol=1e-4)


def test_what_is_beside_is_not_dimmed(backbone: Backbone) -> None:
    model = fitted(backbone, left_half())
    ones = torch.ones(2, *model.levels.grids[0])
    smooth = model.smoothed(ones)
    torch.testing.assert_close(smooth[:, ~left_half()], torch.ones(2, int((~left_half()).sum())))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "suffix"),
    [
        ({"gaussian": PatchGaussian(shrinkage=0.2)}, ".onnx"),
        ({"gaussian": PatchGaussian(ensemble="sum")}, ".pt2"),
        ({"reduction": PrincipalComponents(6)}, ".pt2"),
    ],
    ids=["shrinkage", "ensemble", "pca"],
)
def test_a_checkpoint_and_a_file_hold_it(
    backbone: Backbone, tmp_path: Any, parts: Any, suffix: str
) -> None:
    model = fitted(backbone, left_half(), calibration=Calibration(), **parts)
    twin = PaDiM.from_config(model.config)
    twin.load_state_dict(model.state_dict())
    found, expected = twin.eval()(images(3, 1)), model(images(3, 1))
    assert torch.equal(found.maps, expected.maps)
    assert torch.equal(twin.ignored, left_half())
    assert twin.levels.cells == model.levels.cells
    again = PaDiM.from_config(model.config)  # and one that is loaded twice
    for _ in range(2):
        again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images(3, 1)).scores, expected.scores)
    parts = level_maps(model, model.embed(backbone(images(3, 1))))
    torch.testing.assert_close(sum(parts.values()), expected.maps, rtol=1e-4, atol=1e-4)
    deployment = Deployment(model, 1.0)
    export(deployment, tmp_path / f"model{suffix}", "onnx" if suffix == ".onnx" else "torch")
    assert difference(tmp_path / f"model{suffix}", deployment) < 1e-3


def test_thresholds_are_of_what_is_seen(backbone: Backbone) -> None:
    model = fitted(backbone, left_half(), calibration=Calibration())
    assert model.calibration is not None
    prediction = model(images(3, 1))
    _, peaks, _, pixels, _ = sampled(*prediction, image_keys(range(3)), model.ignored)
    assert torch.equal(peaks, prediction.scores)
    assert torch.equal(pixels, prediction.maps[:, ~left_half()].flatten())
    # The share of all pixels that exceeds it; of all, with those that are 0, it would be half.
    exceed = (prediction.maps[:, ~left_half()] > model.calibration.extent_threshold(0.1)).float()
    assert exceed.mean() == pytest.approx(0.1, abs=0.04)


def test_a_slice_of_a_wider_model(backbone: Backbone) -> None:
    whole = fitted(backbone, left_half(), reduction=AllChannels())
    for layers in ([0, 1], [1, 2], [2]):
        names = [backbone.layers[i].name for i in layers]
        part = PaDiM(backbone.narrowed(names), AllChannels(), ignored=left_half())
        piece = ModelSlice(whole, part)
        piece.fit()
        alone = fitted(backbone.narrowed(names), left_half(), reduction=AllChannels())
        embedding = piece.embedding(whole.embed(backbone(images(3, 1))))
        torch.testing.assert_close(
            part.eval().score(embedding).maps, alone(images(3, 1)).maps, rtol=1e-4, atol=1e-4
        )


def test_models_that_ignore_other_pixels_do_not_merge(backbone: Backbone) -> None:
    for other in (None, left_half().flip(1)):
        with pytest.raises(ValueError, match="differ in the pixels that they ignore"):
            merge(fitted(backbone, left_half()), fitted(backbone, other))


def test_metrics_are_of_the_other_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(4, SIDE, SIDE, generator=generator)
    masks = torch.zeros(4, SIDE, SIDE, dtype=torch.bool)
    masks[:2, 20:30, 20:50] = True
    kept = ~left_half()[0]
    found, each, expected = PixelMetrics(), PixelMetrics(), PixelMetrics()
    found.update(maps, masks, left_half())
    each.update(maps, masks, left_half().expand_as(maps))
    expected.update(maps[:, :, kept], masks[:, :, kept])
    assert found.compute() == each.compute() == expected.compute()


@pytest.mark.parametrize(
    "ignored",
    [
        torch.ones(SIDE, SIDE, dtype=torch.bool),
        torch.zeros(SIDE, SIDE - 1, dtype=torch.bool),
    ],
)
def test_what_cannot_be_ignored(backbone: Backbone, ignored: Tensor) -> None:
    with pytest.raises(ValueError, match=r"ignored must be of \(64, 64\) pixels, and leave some"):
        PaDiM(backbone, ignored=ignored)
