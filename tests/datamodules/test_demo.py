import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import Loading, Preprocessing, demo
from datamodules.demo import STAMP, Demo
from datamodules.demo_pictures import KINDS, draw
from datamodules.errors import DatasetError

SMALL = {"n_train": 2, "n_test": 9, "size": 64}


def make(root: Path, category: str = "flange", **changes) -> Path:
    data = Demo(root, category, **SMALL | changes)
    data.prepare_data()
    return data.folder


def make_both(root: Path, **changes) -> Path:
    for category in KINDS:
        make(root, category, **changes)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_both(tmp_path_factory.mktemp("demo") / "small")


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def refuse(*_) -> None:
    pytest.fail("the images are made again")


@pytest.mark.parametrize("category", KINDS)
def test_the_default_is_120_good_images_to_fit_on_and_20_good_40_bad_ones_to_test_on(
    tmp_path, monkeypatch, category
):
    blank = np.zeros((4, 4), np.uint8)
    monkeypatch.setattr(demo, "draw", lambda *_: (blank, blank))
    data = Demo(tmp_path, category)
    data.prepare_data()
    defects = [sample.defect for sample in data.test_samples]
    assert len(data.train_paths) == 120
    assert defects.count("good") == 20
    assert {defects.count(kind) for kind in KINDS[category]} == {40 // len(KINDS[category])} | (
        {14} if 40 % len(KINDS[category]) else set()
    )
    assert len(defects) == 60


@pytest.mark.parametrize("category", KINDS)
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


def test_the_same_bytes_whatever_the_number_of_workers(small, tmp_path, monkeypatch):
    for workers in 1, 3:
        monkeypatch.setattr(demo, "ThreadPoolExecutor", partial(ThreadPoolExecutor, workers))
        assert contents(make_both(tmp_path / str(workers))) == contents(small)


def test_an_image_depends_on_its_path_and_the_seed_only(small, tmp_path):
    fewer = contents(make_both(tmp_path / "fewer", n_train=1, n_test=4))
    other = contents(make_both(tmp_path / "other", seed=1))
    ours = contents(small)
    assert {name for name in fewer if fewer[name] != ours[name]} == {
        f"{category}/{STAMP}" for category in KINDS
    }
    assert not [name for name in other if name.endswith("0.png") and other[name] == ours[name]]


@pytest.mark.parametrize(
    ("category", "kind"), [(category, kind) for category in KINDS for kind in KINDS[category]]
)
def test_a_defect_changes_its_mask_and_little_else(category, kind):
    for name in "abc":
        image, mask = draw(category, name, kind, 128, 0)
        twin, nothing = draw(category, name, "good", 128, 0)
        change = np.abs(image.astype(int) - twin).max(axis=2)
        assert not nothing.any()
        assert 0 < (mask > 0).mean() < 0.15
        # Both have the same noise, so the difference is the defect's, and its shadow's outside.
        assert change[mask > 0].mean() > 1
        assert change[mask == 0].mean() < 1


@pytest.mark.parametrize("category", KINDS)
def test_brightness_and_contrast_do_not_give_a_defect_away(category):
    # The two simplest image scores; 0.5 is chance. With 12 to 24 images one standard error of an
    # AUROC at chance is 0.1, and a giveaway would be near 1.
    kinds = KINDS[category]
    good = [draw(category, f"test/good/{n}", "good", 96, 0)[0] for n in range(12)]
    bad = [draw(category, f"test/bad/{n}", kinds[n % len(kinds)], 96, 0)[0] for n in range(24)]
    for score in np.mean, np.std:
        wins = np.mean([score(b) > score(g) for b in bad for g in good])
        assert 0.2 < wins < 0.8


def test_existing_data_are_not_made_again(small, monkeypatch):
    monkeypatch.setattr(demo, "draw", refuse)
    assert make(small) == small / "flange"


@pytest.mark.parametrize("change", [{"seed": 5}, {"VERSION": 99}])
def test_data_of_other_arguments_or_version_are_moved_aside(tmp_path, monkeypatch, change):
    folder = make(tmp_path)
    (folder / "notes.txt").write_text("mine")
    if "VERSION" in change:
        monkeypatch.setattr(demo, "VERSION", change["VERSION"])
        change = {}
    make(tmp_path, **change)
    old = next(path for path in tmp_path.iterdir() if path != folder)
    assert old.name.startswith("flange.old-")
    assert (old / "notes.txt").read_text() == "mine"
    assert not (folder / "notes.txt").exists()
    assert json.loads((folder / STAMP).read_text()) != json.loads((old / STAMP).read_text())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left"), RuntimeError])
def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch, error):
    def fail_at_the_third(category: str, name: str, *rest) -> tuple:
        if name == "test/good/000":
            raise error
        return draw(category, name, *rest)

    monkeypatch.setattr(demo, "draw", fail_at_the_third)
    with pytest.raises((KeyboardInterrupt, DatasetError, RuntimeError)):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_agree(small, tmp_path, monkeypatch):
    write_all = Demo._draw_all

    def overtaken(*args) -> None:
        write_all(*args)
        monkeypatch.setattr(Demo, "_draw_all", write_all)
        make(tmp_path)

    monkeypatch.setattr(Demo, "_draw_all", overtaken)
    folder = make(tmp_path)
    assert contents(folder) == contents(small / "flange")
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "flange").mkdir()
    (tmp_path / "flange" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds something other than the demo data"):
        make(tmp_path)
    assert contents(tmp_path) == {"flange/thesis.txt": b"mine"}


def test_a_root_below_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write the demo data"):
        make(tmp_path / "file" / "demo")


def test_the_data_module_makes_and_reads_it(tmp_path):
    views = Preprocessing(48, 40), Loading(batch_size=4, num_workers=0)
    data = Demo(tmp_path / "demo", "fabric", *views, n_train=3, n_test=4, size=64)
    data.prepare_data()
    data.setup()
    train, test = list(data.train_dataloader()), list(data.test_dataloader())
    assert [tuple(batch["image"].shape) for batch in train] == [(3, 3, 40, 40)]
    assert [tuple(batch["mask"].shape) for batch in test] == [(4, 40, 40)]
    assert sorted(test[0]["label"].tolist()) == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("category", "hint"), [("flang", "try flange"), ("x", "try fabric or flange")]
)
def test_an_unknown_category_is_an_error_before_anything_is_made(tmp_path, category, hint):
    with pytest.raises(DatasetError, match=f"'{category}'; {hint}$"):
        Demo(tmp_path / "demo", category).prepare_data()
    assert list(tmp_path.iterdir()) == []
