from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.callbacks.chosen_pictures import chosen_pictures
from experiments.callbacks.recorder import TestRecorder


def record(recorder: TestRecorder, scores: np.ndarray, labels: np.ndarray, batch: int = 4) -> None:
    for i in range(0, len(scores), batch):
        part = slice(i, i + batch)
        maps = torch.from_numpy(scores[part])[:, None, None].repeat(1, 32, 32)
        truth = torch.from_numpy(labels[part])
        batch_of = {
            "path": [f"{j}.png" for j in range(len(scores))[part]],
            "defect": ["spot" if label else "good" for label in truth],
            "label": truth,
            "mask": truth.bool()[:, None, None].repeat(1, 32, 32),
        }
        recorder.on_test_batch_end(None, None, {"maps": maps, "scores": maps[:, 0, 0]}, batch_of)


def test_maps_kept_are_those_of_the_extremes_and_no_more() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(10, 3, 200), rng.integers(0, 2, 200)
    recorder = TestRecorder(pictures=3)
    record(recorder, scores, labels)
    assert recorder.columns["score"] == scores.tolist()
    kept = set(recorder.kept)
    expected = set()
    for label in (0, 1):
        ranked = sorted(np.flatnonzero(labels == label), key=lambda i: scores[i])
        expected |= {*ranked[:3], *ranked[-3:]}
    assert kept == expected
    for i in kept:
        one = recorder.kept[i]
        assert one.placed(one.anomaly_map)[5, 7] == scores[i]
        assert one.mask is not None
        assert one.mask.all() == bool(labels[i])


def test_colours_take_all_images_into_account() -> None:
    scores = np.array([10.0] * 90 + [100.0] * 10)
    recorder = TestRecorder(pictures=1)
    record(recorder, scores, np.zeros(100, int))
    assert (recorder.scale.low, recorder.scale.high) == (10, 100)


def test_without_pictures_nothing_is_kept() -> None:
    recorder = TestRecorder(pictures=0)
    record(recorder, np.ones(8), np.zeros(8, int))
    assert recorder.kept == {}
    assert recorder._pixels == []


def test_frames_are_not_decoded_again_to_be_drawn() -> None:
    images, maps = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8), torch.rand(4, 16, 16)
    batch = {"path": [f"a.mp4#{i}" for i in range(4)], "label": torch.arange(4) % 2}
    recorder, outputs = TestRecorder(pictures=4), {"maps": maps, "scores": maps.amax(dim=(1, 2))}
    recorder.on_test_batch_end(None, None, outputs, {**batch, "image": images})
    data = SimpleNamespace(picture=pytest.fail)
    trainer = SimpleNamespace(callbacks=[recorder], datamodule=data, lightning_module=None)
    drawn = list(chosen_pictures(trainer, {}))
    assert len(drawn) == 4
    for one in drawn:
        assert np.array_equal(one.image, images[one.choice.index].permute(1, 2, 0))


def test_overlaps_are_those_of_the_images_that_are_measured() -> None:
    recorder, maps = TestRecorder(pictures=0), torch.rand(4, 16, 16)
    outputs = {"maps": maps, "scores": maps.amax(dim=(1, 2)), "measured": [True, False, True, True]}
    paths, labels = ["d.png", "c.png", "b.png", "a.png"], torch.tensor([1, 1, 0, 1])
    recorder.on_test_batch_end(None, None, outputs, {"path": paths, "label": labels})
    overlaps = torch.tensor([0.4, torch.nan, 0.1])
    metrics = SimpleNamespace(aupimo=overlaps)
    module = SimpleNamespace(model=SimpleNamespace(calibration=None), pixel_metrics=metrics)
    found = recorder.predictions(module).set_index("path")["aupimo"]
    expected = [0.1, np.nan, np.nan, 0.4]  # of an image whose mask is not known, and a normal one
    assert found.to_list() == pytest.approx(expected, nan_ok=True)
