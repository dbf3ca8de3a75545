import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from oracle import dense_covariances, dense_distances, dense_embedding
from padim import (
    AllChannels,
    AnomalyMap,
    Backbone,
    Calibration,
    OrthogonalProjection,
    PaDiM,
    PatchGaussian,
    PrincipalComponents,
    RandomChannels,
    VarianceChannels,
)
from padim.reduction import Reduction


def make_model(**parts: object) -> PaDiM:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", [1, 2, 3], "random", image_size=(64, 96))
    return PaDiM(backbone, **{"reduction": RandomChannels(20), **parts})


def images(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 64, 96), dtype=torch.uint8, generator=generator)


def fitted(x: torch.Tensor, batch: int = 8, **parts: object) -> PaDiM:
    model = make_model(**parts)
    for part in x.split(batch):
        model.update(part)
    model.finalize()
    return model


def test_prediction_is_a_map_of_the_image_and_its_maximum() -> None:
    scores, maps = fitted(images(30))(images(5, seed=1))
    assert maps.shape == (5, 64, 96)
    assert torch.equal(scores, maps.amax(dim=(1, 2)))
    assert maps.dtype == torch.float32


def test_what_is_kept_for_the_threshold_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("padim.model.SAMPLE_BYTES", 0)
    with caplog.at_level(logging.INFO):
        model = fitted(images(40), calibration=Calibration(), reduction=RandomChannels(12))
    assert model.sample is not None
    assert model.calibration is not None
    held = sum(x.nbytes for x in model.sample.embedding)
    assert 0.8 * model.statistics.nbytes < held <= model.statistics.nbytes
    assert f"set by {len(model.calibration.scores)} of 40 images" in caplog.text


@pytest.mark.parametrize("change", [lambda x: x, lambda x: x[torch.randperm(len(x))]])
@pytest.mark.parametrize("batch", [1, 7, 40])
def test_batch_size_and_order_hardly_matter(
    change: Callable[[torch.Tensor], torch.Tensor], batch: int
) -> None:
    x = images(40)
    expected = fitted(x)(images(4, seed=1)).maps
    found = fitted(change(x), batch)(images(4, seed=1)).maps
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_later_images_are_as_good_as_earlier_ones() -> None:
    x = images(30)
    model = fitted(x[:20])
    model.update(x[20:])
    model.finalize()
    torch.testing.assert_close(model(x[:2]).maps, fitted(x)(x[:2]).maps, rtol=1e-5, atol=0)


def test_state_dict_brings_the_whole_model_back() -> None:
    model = fitted(images(30), gaussian=PatchGaussian(0.1), anomaly_map=AnomalyMap(2, "bilinear"))
    twin = PaDiM.from_config(model.config)
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config
    for a, b in zip(twin(images(3)), model(images(3)), strict=True):
        assert torch.equal(a, b)


def test_state_dict_does_not_hold_what_follows_from_the_statistics() -> None:
    names = fitted(images(3)).state_dict().keys() - {"gaussian.coefficient"}  # which is chosen
    assert not [name for name in names if name.startswith(("gaussian", "anomaly_map"))]


def test_unfitted_state_dict_loads_and_stays_unfitted() -> None:
    model = make_model()
    model.load_state_dict(make_model().state_dict())
    with pytest.raises(RuntimeError, match="not fitted"):
        model(images(1))


def test_all_channels_make_a_wider_embedding() -> None:
    model = make_model(reduction=AllChannels())
    assert sum(model.levels.channels) == sum(layer.channels for layer in model.backbone.layers)


def test_one_image_works_and_says_what_it_means(caplog: pytest.LogCaptureFixture) -> None:
    model = fitted(images(1))
    assert "fitted on 1 image: its covariance is 0" in caplog.text
    # Sigma = eps I, so the distance is the Euclidean one over sqrt(eps) = 0.1.
    x = images(2, seed=1)
    train, test = (model.embed(model.backbone(i)) for i in (images(1), x))
    levels = model.levels
    squared = sum(
        levels.spread((b - a).square().sum(1), i, 0)
        for i, (a, b) in enumerate(zip(train, test, strict=True))
    )
    expected = model.anomaly_map(levels.to_grid(squared).sqrt() / 0.1)
    torch.testing.assert_close(model(x).maps, expected, rtol=1e-4, atol=0)


def test_fewer_images_than_dimensions_says_what_it_means(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "padim")
    fitted(images(5))
    assert "5 images in 20 dimensions: the covariances have rank 4" in caplog.text


@pytest.mark.parametrize("batch", [1, 3, 12])
def test_images_that_are_all_alike_are_refused(batch: int) -> None:
    same = images(1).expand(12, -1, -1, -1)
    with pytest.raises(ValueError, match="all 12 training images are alike, so any other"):
        fitted(same, batch)
    nearly = same.clone()
    nearly[0, 0, 0, 0] += 1
    fitted(nearly, batch)


def test_too_many_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reduction.d is 5000, but the layers have \d+ channels"):
        make_model(reduction=RandomChannels(5000))


LEARNED = [PrincipalComponents(6), VarianceChannels(9)]
REDUCTIONS = [*LEARNED, OrthogonalProjection(7, seed=2)]


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: r.kind)
def test_reductions_equal_a_dense_computation(reduction: Reduction) -> None:
    train, test = images(60), images(4, seed=1)
    model = fitted(train, reduction=reduction)
    maps, seen = model.backbone(train), model.backbone(test)
    x, y = dense_embedding(maps), dense_embedding(seen)
    if isinstance(reduction, OrthogonalProjection):
        basis = reduction.projection(x.shape[-1]).double().numpy()
    else:
        values, vectors = np.linalg.eigh(dense_covariances(x).mean(axis=0))
        if isinstance(reduction, VarianceChannels):
            spread = dense_covariances(x).mean(axis=0).diagonal()
            basis = np.eye(len(values))[:, np.argsort(-spread)[:9]]
        else:
            basis = vectors[:, -6:]
    expected = dense_distances(x @ basis, y @ basis)
    found = model.gaussian(model.embed(seen))[0].flatten(1).T
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: r.kind)
def test_a_reduction_comes_back_with_the_state_and_takes_more_images(reduction: Reduction) -> None:
    model = fitted(images(30), reduction=reduction)
    twin = PaDiM.from_config(model.config)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(images(3)).maps, model(images(3)).maps)
    for later in (model, twin):
        later.update(images(10, seed=2))
        later.finalize()
    assert int(twin.statistics.count) == 40
    assert torch.equal(twin(images(3)).maps, model(images(3)).maps)


@pytest.mark.parametrize("reduction", LEARNED, ids=lambda r: r.kind)
def test_what_is_learned_makes_the_statistics_small(reduction: Reduction) -> None:
    model = make_model(reduction=reduction)
    before = model.statistics.nbytes
    model.update(images(30))
    model.finalize()
    assert sum(model.levels.channels) == reduction.d
    assert model.statistics.nbytes < before


def test_shrinkage_is_chosen_for_what_a_reduction_makes() -> None:
    parts = {"reduction": PrincipalComponents(8), "gaussian": PatchGaussian(shrinkage="auto")}
    model = fitted(images(20), **parts)
    twin = PatchGaussian(shrinkage=float(model.gaussian.coefficient))
    same = fitted(images(20), reduction=PrincipalComponents(8), gaussian=twin)
    assert model.shrinkage_choice is not None
    torch.testing.assert_close(model(images(2)).maps, same(images(2)).maps)


@pytest.mark.parametrize("shrinkage", [0, 0.3])
def test_an_ensemble_sums_the_maps_of_each_layer_alone(shrinkage: float) -> None:
    x, y = images(40), images(3, seed=1)
    gaussian = {"shrinkage": shrinkage}
    parts = {"reduction": AllChannels(), "anomaly_map": AnomalyMap(2)}
    ensemble = fitted(x, gaussian=PatchGaussian(ensemble="sum", **gaussian), **parts)
    total = torch.zeros(3, 64, 96)
    for layer in (1, 2, 3):
        torch.manual_seed(0)
        backbone = Backbone("test_resnet", [1, 2, 3], "random", image_size=(64, 96))
        name = backbone.layers[layer - 1].name
        alone = PaDiM(backbone.narrowed([name]), gaussian=PatchGaussian(**gaussian), **parts)
        alone.update(x)
        alone.finalize()
        total += alone(y).maps
    torch.testing.assert_close(ensemble(y).maps, total, rtol=1e-4, atol=1e-4)
    assert torch.equal(ensemble(y).scores, ensemble(y).maps.amax(dim=(1, 2)))


def test_an_ensemble_of_layers_that_share_a_grid() -> None:
    torch.manual_seed(0)
    twice = Backbone("test_vit", [0, 1], "random", image_size=(160, 160))
    x = torch.randint(0, 256, (12, 3, 160, 160), dtype=torch.uint8)
    models = [
        PaDiM(twice, AllChannels(), PatchGaussian(ensemble="sum")),
        *(PaDiM(twice.narrowed([layer.name]), AllChannels()) for layer in twice.layers),
    ]
    for model in models:
        model.update(x)
        model.finalize()
    ensemble, *alone = (model(x[:2]).maps for model in models)
    torch.testing.assert_close(ensemble, sum(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reduction", [OrthogonalProjection(5), PrincipalComponents(5)])
def test_an_ensemble_has_no_projection(reduction: Reduction) -> None:
    with pytest.raises(ValueError, match="a projection mixes them"):
        fitted(images(9), reduction=reduction, gaussian=PatchGaussian(ensemble="sum"))
