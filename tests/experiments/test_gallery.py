import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.callbacks.chosen_pictures import chosen_pictures
from experiments.callbacks.recorder import TestRecorder
from experiments.cli import main
from experiments.drawing.pictures import Scale
from experiments.scoring.gallery import (
    IMAGE_SIDE,
    MAP_SIDE,
    Choice,
    Drawn,
    Gallery,
    choose,
)
from runs import SMALL, rows
from trees import mvtec_tree

CHOICE = Choice(0, "best", 1, "widget/test/spot/000.png", "spot", 1, 9.0)


def drawn(
    choice: Choice, image: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray | None = None
) -> Drawn:
    return Drawn(choice, Image.new("RGB", (1, 1)), image, anomaly_map, mask, {})


def recorded(scores: list[float], labels: list[int], pictures: int = 16) -> TestRecorder:
    recorder = TestRecorder(pictures)
    maps = torch.tensor(scores)[:, None, None].repeat(1, 32, 32)
    batch = {
        "path": [f"{i}.png" for i in range(len(scores))],
        "defect": ["spot" if label else "good" for label in labels],
        "label": torch.tensor(labels),
        "mask": torch.zeros(len(scores), 32, 32, dtype=torch.bool),
    }
    recorder.on_test_batch_end(None, None, {"maps": maps, "scores": maps[:, 0, 0]}, batch)
    return recorder


def chosen(recorder: TestRecorder, threshold: float | None, count: int) -> dict[str, list[float]]:
    kinds: dict[str, list[float]] = {"best": [], "confused": [], "worst": []}
    for choice in choose(recorder.columns, recorder.kept, threshold, count):
        kinds[choice.kind].append(choice.score)
        assert choice.rank == len(kinds[choice.kind])
    return kinds


def test_best_worst_and_most_confused() -> None:
    normal, anomalous = [1.0, 2, 3, 11.1, 12.1, 13.1, 14.1, 15.1], [5.0, 6, 7, 8, 9, 20, 21, 22]
    recorder = recorded([*normal, *anomalous], [0] * 8 + [1] * 8)
    found = chosen(recorder, 10, 8)
    # Ten images are on the wrong side: the lowest margins are 5 and 4, the nearest misclassified 1.
    expected = {"best": [22, 21], "confused": [9, 11.1], "worst": [15.1, 5, 14.1, 6]}
    assert {kind: pytest.approx(scores) for kind, scores in found.items()} == expected


def test_without_mistakes_nothing_is_confused() -> None:
    recorder = recorded([1, 2, 3, 21, 22, 23], [0, 0, 0, 1, 1, 1])
    assert chosen(recorder, 10, 4) == {"best": [23, 22], "confused": [], "worst": [3, 2]}
    assert [len(scores) for scores in chosen(recorder, None, 100).values()] == [3, 0, 3]


def test_pictures_show_the_model_s_own_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(
        "experiments.callbacks.chosen_pictures.draw", lambda *args, **_: shown.append(args[5])
    )
    metrics = {"image/f1_max_threshold": 1.0, "pixel/f1_max_threshold": 2.0}
    for known in (metrics, metrics | {"threshold/image": 3.0, "threshold/pixel": 4.0}):
        recorder = recorded([1, 2], [0, 1], 2)
        for index, kept in recorder.kept.items():
            recorder.kept[index] = kept._replace(image=torch.zeros(3, 32, 32, dtype=torch.uint8))
        trainer = SimpleNamespace(callbacks=[recorder], datamodule=None, lightning_module=None)
        assert len(list(chosen_pictures(trainer, known))) == 2
    assert shown == [2, 2, 4, 4]


def test_only_images_whose_maps_are_kept() -> None:
    rng = np.random.default_rng(0)
    recorder = recorded(rng.normal(10, 3, 100).tolist(), rng.integers(0, 2, 100).tolist(), 6)
    indices = [choice.index for choice in choose(recorder.columns, recorder.kept, 10, 6)]
    assert len(set(indices)) == 6
    for i in indices:
        assert i in recorder.kept


def test_maps_can_be_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores = rng.lognormal(3, 1, (60, 80)).clip(10, 900)
    gallery = Gallery(tmp_path / "gallery", Scale(10, 90), 900)
    image = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
    gallery.add(drawn(CHOICE, image, scores, scores > 40))
    gallery.close()
    facts = json.loads((tmp_path / "gallery" / "gallery.json").read_text())
    levels = np.asarray(Image.open(tmp_path / "gallery" / "best_01_map.png")).astype(float)
    back = facts["bottom"] * (facts["top"] / facts["bottom"]) ** (levels / 255)
    # Half of one of 255 steps from 10 to 900, each 1.8 %.
    np.testing.assert_allclose(back, scores, rtol=0.009)
    mask = np.asarray(Image.open(tmp_path / "gallery" / "best_01_mask.png"))
    np.testing.assert_array_equal(mask, scores > 40)
    assert facts["scale"] == {"low": 10, "high": 90}
    assert facts["images"][0]["path"] == CHOICE.path


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_maps_without_any_difference(tmp_path: Path, value: float) -> None:
    maps = np.full((1, 8, 8), value)
    gallery = Gallery(tmp_path / "gallery", Scale.of(maps), value)
    gallery.add(drawn(CHOICE, np.zeros((8, 8, 3), np.uint8), maps[0]))
    gallery.close()
    assert not (tmp_path / "gallery" / "best_01_mask.png").exists()
    levels = np.asarray(Image.open(tmp_path / "gallery" / "best_01_map.png"))
    assert set(levels.ravel()) == {255 if value else 0}


def test_an_earlier_gallery_is_replaced(tmp_path: Path) -> None:
    for kind in ("best", "worst"):
        gallery = Gallery(tmp_path / "gallery", Scale(1, 9), 9)
        choice = replace(CHOICE, kind=kind)
        gallery.add(drawn(choice, np.zeros((8, 8, 3), np.uint8), np.ones((8, 8))))
        gallery.close()
    names = {path.name for path in (tmp_path / "gallery").iterdir()}
    assert names == {"worst_01_image.jpg", "worst_01_map.png", "gallery.json"}


def test_large_images_are_kept_small_and_scratches_visible(tmp_path: Path) -> None:
    mask = np.zeros((1200, 1600), bool)
    mask[700, 100:1500] = True
    gallery = Gallery(tmp_path / "gallery", Scale(1, 9), 9)
    gallery.add(drawn(CHOICE, np.zeros((1200, 1600, 3), np.uint8), np.ones((1200, 1600)), mask))
    sizes = {
        path.stem.rpartition("_")[2]: Image.open(path).size
        for path in (tmp_path / "gallery").iterdir()
    }
    side = (IMAGE_SIDE, IMAGE_SIDE * 3 // 4)
    assert sizes == {"image": side, "mask": side, "map": (MAP_SIDE, MAP_SIDE * 3 // 4)}
    shown = np.asarray(Image.open(tmp_path / "gallery" / "best_01_mask.png"))
    assert shown.any(axis=0).mean() > 0.85


def test_a_run_leaves_curves_and_a_gallery(tmp_path: Path) -> None:
    mvtec_tree(tmp_path / "data")
    run = tmp_path / "run"
    options = [f"data.root={tmp_path / 'data'}", f"hydra.run.dir={run}", "pictures_by_level=true"]
    main(["fit", *SMALL, *options])
    metrics = json.loads((run / "metrics.json").read_text())
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows(run / "curves.csv"):
        curves.setdefault(row["curve"], []).append((float(row["x"]), float(row["y"])))
    assert set(curves) == {"image/roc", "image/pr", "pixel/roc", "pixel/pr", "pixel/pro"}
    for name, metric in (("image/roc", "image/auroc"), ("pixel/roc", "pixel/auroc")):
        x, y = np.array(curves[name]).T
        assert np.trapezoid(y, x) == pytest.approx(metrics[metric], abs=0.005)
    images = json.loads((run / "gallery" / "gallery.json").read_text())["images"]
    predictions = {row["path"]: float(row["score"]) for row in rows(run / "predictions.csv")}
    assert {image["path"]: image["score"] for image in images} == predictions
    for image in images:
        assert list(image["levels"]) == ["layer1", "layer2", "layer3"]
        assert sum(image["levels"].values()) == pytest.approx(image["score"], rel=1e-4)
        assert all((run / "gallery" / f"{image['name']}_level{i}.png").is_file() for i in range(3))
