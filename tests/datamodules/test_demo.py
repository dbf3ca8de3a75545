import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.demo import Demo, generate, make_demo
from datamodules.demo.generate import SCENES, STAMP, Shot, draw, draw_twin, plan
from datamodules.errors import DatasetError

SMALL = {"n_train": 2, "n_test": 9, "size": 64, "progress": False}
SHOTS = [
    pytest.param(shot, id=f"{shot.category}-{shot.kind}")
    for category in SCENES
    for shot in plan(category, n_train=1, n_test=9)
    if shot.kind and shot.name.name == "000"
]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_both(tmp_path_factory.mktemp("demo") / "small", workers=1)


def make_both(root: Path, **changes) -> Path:
    for category in SCENES:
        make_demo(root, category, **SMALL | changes)
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def refuse(*_) -> None:
    pytest.fail("the images are made again")


def test_the_default_is_120_good_images_to_fit_on_and_20_good_40_bad_ones_to_test_on():
    for category, scene in SCENES.items():
        shots = list(plan(category, 120, 60))
        kinds = [shot.kind for shot in shots if shot.name.parts[1] == "test"]
        assert sum(shot.name.parts[1] == "train" for shot in shots) == 120
        assert kinds.count(None) == 20
        assert {kinds.count(kind) for kind in scene.kinds} == {6, 7}
        assert len({shot.name for shot in shots}) == 180


@pytest.mark.parametrize("category", SCENES)
def test_every_defect_image_has_a_mask_of_its_size_and_no_good_one_has(small, category):
    for image in (small / category).glob("test/*/*.png"):
        kind = image.parent.name
        mask = small / category / "ground_truth" / kind / f"{image.stem}_mask.png"
        assert Image.open(image).size == (64, 64)
        assert Image.open(image).mode == "RGB"
        if kind == "good":
            assert not mask.parent.exists()
        else:
            values = np.asarray(Image.open(mask))
            assert values.shape == (64, 64)
            assert set(np.unique(values)) == {0, 255}


def test_the_same_bytes_whatever_the_number_of_workers(small, tmp_path):
    assert contents(make_both(tmp_path / "again", workers=3)) == contents(small)


def test_an_image_depends_on_its_path_and_the_seed_only(small, tmp_path):
    fewer = contents(make_both(tmp_path / "fewer", n_train=1, n_test=4))
    other = contents(make_both(tmp_path / "other", seed=1))
    ours = contents(small)
    assert {name for name in fewer if fewer[name] != ours[name]} == {
        f"{category}/{STAMP}" for category in SCENES
    }
    assert not [name for name in other if name.endswith("0.png") and other[name] == ours[name]]


@pytest.mark.parametrize("shot", SHOTS)
def test_a_defect_changes_its_mask_and_nothing_else(shot: Shot):
    image, mask = draw(shot, 128, seed=0)
    assert mask is not None
    change = np.abs(image.astype(int) - draw_twin(shot, 128, seed=0)).max(axis=2)
    inside = mask > 0
    assert 0 < inside.mean() < 0.15
    assert change[inside].mean() > 3
    # Both have the same noise, so what is left outside is below NOTICEABLE or a removed speck.
    assert (change[~inside] > generate.NOTICEABLE + 1).mean() < 0.002


@pytest.mark.parametrize("category", SCENES)
def test_brightness_and_contrast_do_not_give_a_defect_away(category):
    # The two simplest image scores; 0.5 is chance. With 12 to 24 images one standard error of an
    # AUROC at chance is 0.1, and a giveaway would be near 1.
    good, bad = [], []
    for shot in plan(category, n_train=0, n_test=36):
        image, _ = draw(shot, 96, seed=0)
        (bad if shot.kind else good).append((image.mean(), image.std()))
    wins = np.mean(np.array(bad)[:, None] > np.array(good)[None], axis=(0, 1))
    assert np.maximum(wins, 1 - wins).max() < 0.8


def test_existing_data_are_not_made_again(small, monkeypatch):
    monkeypatch.setattr(generate, "_write_all", refuse)
    assert make_demo(small, "flange", **SMALL) == small / "flange"


@pytest.mark.parametrize("change", [{"seed": 5}, {"VERSION": 99}])
def test_data_of_another_kind_or_version_are_moved_aside(tmp_path, monkeypatch, change):
    folder = make_demo(tmp_path, "fabric", **SMALL)
    (folder / "notes.txt").write_text("mine")
    if "VERSION" in change:
        monkeypatch.setattr(generate, "VERSION", change.pop("VERSION"))
    make_demo(tmp_path, "fabric", **SMALL | change)
    old = next(path for path in tmp_path.iterdir() if path != folder)
    assert old.name.startswith("fabric.old-")
    assert (old / "notes.txt").read_text() == "mine"
    assert not (folder / "notes.txt").exists()
    assert json.loads((folder / STAMP).read_text()) != json.loads((old / STAMP).read_text())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left"), RuntimeError])
def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch, error):
    written = []
    write = generate._write

    def fail_at_the_third(*args) -> None:
        if len(written) == 2:
            raise error
        written.append(write(*args))

    monkeypatch.setattr(generate, "_write", fail_at_the_third)
    with pytest.raises((KeyboardInterrupt, DatasetError, RuntimeError)):
        make_demo(tmp_path, "flange", workers=1, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_agree(small, tmp_path, monkeypatch):
    write_all = generate._write_all

    def overtaken(*args) -> None:
        write_all(*args)
        monkeypatch.setattr(generate, "_write_all", write_all)
        make_demo(tmp_path, "flange", **SMALL)

    monkeypatch.setattr(generate, "_write_all", overtaken)
    folder = make_demo(tmp_path, "flange", **SMALL)
    assert contents(folder) == contents(small / "flange")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "flange").mkdir()
    (tmp_path / "flange" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds something other than the demo data"):
        make_demo(tmp_path, "flange", **SMALL)
    assert contents(tmp_path) == {"flange/thesis.txt": b"mine"}


def test_a_root_below_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write the demo data there"):
        make_demo(tmp_path / "file" / "demo", "flange", **SMALL)


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"n_test": 0}, {"size": 8}])
def test_counts_that_give_no_data_set(tmp_path, wrong):
    with pytest.raises(ValueError, match=", ".join(f"{k}={v}" for k, v in wrong.items())):
        make_demo(tmp_path, "flange", **SMALL | wrong)


def test_the_data_module_makes_and_reads_it(tmp_path, monkeypatch):
    data = Demo(tmp_path / "demo", "fabric", 48, 40, 4, num_workers=0, n_train=3, n_test=4, size=64)
    data.prepare_data()
    monkeypatch.setattr(generate, "_write_all", refuse)
    data.prepare_data()
    data.setup()
    train, test = list(data.train_dataloader()), list(data.test_dataloader())
    assert [tuple(batch["image"].shape) for batch in train] == [(3, 3, 40, 40)]
    assert [tuple(batch["mask"].shape) for batch in test] == [(4, 40, 40)]
    assert sorted(test[0]["label"].tolist()) == [0, 1, 1, 1]


def test_an_unknown_category_is_an_error_before_anything_is_made(tmp_path):
    with pytest.raises(DatasetError, match=r"'flang' \(did you mean 'flange'\?\); it has fabric"):
        Demo(tmp_path / "demo", "flang").prepare_data()
    assert list(tmp_path.iterdir()) == []
