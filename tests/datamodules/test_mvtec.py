import logging
import multiprocessing
import os
import re
from pathlib import Path
from traceback import clear_frames

import pytest
import torch
from PIL import Image

from datamodules import CATEGORIES, DatasetError, Loading, MVTec
from trees import data_module

BOTTLE = Path(__file__).parents[3] / "shared" / "data" / "mvtec_256" / "bottle"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A category `screw`: 5 training images, 2 normal and 1 + 2 defect test images, 40 x 60 px."""
    for index in range(5):
        write(tmp_path / f"screw/train/good/{index:03}.png", grey=index)
    for index in range(2):
        write(tmp_path / f"screw/test/good/{index:03}.png")
    for defect, count in (("scratch", 2), ("bent", 1)):
        for index in range(count):
            write(tmp_path / f"screw/test/{defect}/{index:03}.png")
            write(tmp_path / f"screw/ground_truth/{defect}/{index:03}_mask.png", grey=255)
    return tmp_path


def write(path: Path, grey: int = 0, width: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (width, 40), grey).save(path)


def screw(root: Path, **kwargs) -> MVTec:
    small = {"resize": 32, "crop": 28, "num_workers": 0}
    return data_module(MVTec, root, "screw", **small | kwargs)


def test_the_15_categories():
    assert len(CATEGORIES["textures"]) == 5
    assert len(CATEGORIES["objects"]) == 10


def test_training_batches_hold_every_image_once_in_order(root):
    data = screw(root, batch_size=2)
    data.setup()
    batches = list(data.train_dataloader())
    assert [batch["image"].shape for batch in batches] == [(2, 3, 28, 28)] * 2 + [(1, 3, 28, 28)]
    assert {batch["image"].dtype for batch in batches} == {torch.uint8}
    assert torch.cat([batch["image"][:, 0, 0, 0] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    assert [path for batch in batches for path in batch["path"]] == list(map(str, data.train_paths))


def test_images_counted_before_are_left_out(root):
    data = screw(root, batch_size=2)
    data.setup()
    data.counted = {str(data.train_paths[0]), str(data.train_paths[3])}
    paths = [path for batch in data.train_dataloader() for path in batch["path"]]
    assert paths == [str(data.train_paths[i]) for i in (1, 2, 4)]


def test_few_images_are_part_of_more(root):
    for seed in range(3):
        drawn = [set(MVTec(root, "screw").subsample(shots, seed)) for shots in (1, 2, 4, 5)]
        assert list(map(len, drawn)) == [1, 2, 4, 5]
        assert drawn[0] < drawn[1] < drawn[2] < drawn[3]
    assert len({tuple(MVTec(root, "screw").subsample(2, seed)) for seed in range(9)}) > 1
    data = MVTec(root, "screw", loading=Loading(num_workers=0), shots=2, shot_seed=1)
    data.setup()
    (batch,) = data.train_dataloader()
    assert batch["path"] == list(map(str, data.subsample(2, 1)))


def test_more_images_than_there_are(root):
    data = MVTec(root, "screw", loading=Loading(num_workers=0), shots=6)
    with pytest.raises(DatasetError, match=r"data\.shots=6 are more than the 5 training images"):
        data.train_dataloader()


def test_test_batch(root):
    data = screw(root)
    data.setup()
    (batch,) = data.test_dataloader()
    assert batch["defect"] == ["bent", "good", "good", "scratch", "scratch"]
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [1, 0, 0, 1, 1]
    assert batch["mask"].dtype == torch.bool
    assert batch["mask"].shape == (5, 28, 28)
    assert batch["mask"].all(dim=(1, 2)).tolist() == [True, False, False, True, True]
    assert not batch["mask"][1:3].any()
    assert batch["path"][1] == str(root / "screw/test/good/000.png")


def test_original_resolution_leaves_the_masks_untouched(root):
    write(root / "screw/test/bent/000.png", width=80)
    write(root / "screw/ground_truth/bent/000_mask.png", grey=255, width=80)
    data = screw(root, resolution="original")
    (batch,) = data.test_dataloader()
    assert [tuple(mask.shape) for mask in batch["mask"]] == [(40, 80)] + [(40, 60)] * 4
    assert batch["mask"][0].all()
    assert batch["image"].shape == (5, 3, 28, 28)
    assert batch["window"][0].tolist() == [2.5, 5, 37.5, 75]  # 28 of 32 pixels
    assert data.picture(batch["path"][0]).shape == (3, 40, 80)
    assert screw(root).picture(batch["path"][0]).shape == (3, 28, 28)


def test_workers_change_nothing(root):
    for alone, shared in zip(
        screw(root, batch_size=2).test_dataloader(),
        screw(root, batch_size=2, num_workers=2).test_dataloader(),
        strict=True,
    ):
        assert alone["path"] == shared["path"]
        assert torch.equal(alone["image"], shared["image"])


@pytest.mark.parametrize("size", [2, 100])
def test_workers_have_ended_when_the_last_batch_is_there(root, size):
    before = set(multiprocessing.active_children())
    numbers = [
        len(set(multiprocessing.active_children()) - before)
        for _ in screw(root, batch_size=size, num_workers=2).train_dataloader()
    ]
    assert numbers[-1] == 0
    assert set(numbers[:-1]) <= {2}


@pytest.mark.filterwarnings("error")
def test_the_default_number_of_workers_fits_the_machine(root):
    data = screw(root, num_workers=None)
    assert 1 <= data.loading.workers <= min(8, os.cpu_count() or 1)
    assert len(list(data.train_dataloader())) == 1  # torch warns here of too many


def test_images_of_different_sizes_are_resized(root):
    write(root / "screw/train/good/999.png", width=90)
    (batch,) = screw(root).train_dataloader()
    assert batch["image"].shape == (6, 3, 28, 28)


def test_root_can_be_the_category(root):
    data = MVTec(root / "screw")
    assert data.name == screw(root).name == "screw"
    assert len(data.train_paths) == 5
    assert data.image_size == (224, 224)


@pytest.mark.parametrize("empty", [True, False])
def test_a_category_without_test_images(root, empty):
    (root / "screw/test").rename(root / "elsewhere")
    if empty:
        (root / "screw/test").mkdir()
    data = screw(root)
    data.setup()
    assert not data.has_test
    assert len(data.train_paths) == 5


def test_has_test(root):
    assert screw(root).has_test


def test_missing_root(tmp_path):
    with pytest.raises(DatasetError, match="/none: no such folder; put the data there"):
        screw(tmp_path / "none").setup()


def test_missing_category_names_the_nearest(root):
    write(root / "tile/train/good/000.png")
    expected = r"no category 'scrw' \(did you mean 'screw'\?\); it has screw, tile$"
    with pytest.raises(DatasetError, match=expected):
        MVTec(root, "scrw").setup()


def test_no_category_given(root):
    with pytest.raises(DatasetError, match=r"has no train/good, so name a category.* screw$"):
        MVTec(root).setup()


def test_category_given_for_a_root_that_is_one(root):
    with pytest.raises(DatasetError, match="is itself a category's folder; set category to null"):
        MVTec(root / "screw", "screw").setup()


def test_missing_train_folder(root):
    (root / "screw/train").rename(root / "elsewhere")
    with pytest.raises(DatasetError, match="/screw/train/good: no such folder"):
        screw(root).setup()


def test_empty_train_folder(root):
    for path in (root / "screw/train/good").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(DatasetError, match=r"/screw/train/good: no images to train on \(\.png, "):
        screw(root).setup()


def test_a_category_that_is_a_link_is_called_after_it(root):
    (root / "nail").symlink_to(root / "screw")
    assert MVTec(root, "nail").name == MVTec(root / "nail").name == "nail"
    assert MVTec.present_categories(root) == ["nail", "screw"]


def test_what_no_one_means_is_no_defect_and_no_category(root, caplog):
    for name in ("screw/test/.ipynb_checkpoints/000.png", "__MACOSX/train/good/000.png"):
        write(root / name)
    write(root / "screw/train/good/more/000.png")
    with caplog.at_level(logging.INFO):
        data = screw(root)
        data.setup()
    assert {sample.defect for sample in data.test_samples} == {"bent", "good", "scratch"}
    assert len(data.train_paths) == 5
    assert "train/good: left out are 1 in a folder of its own (good/more)" in caplog.text
    assert MVTec.present_categories(root) == ["screw"]


def test_a_root_in_the_home_folder(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(MVTec(f"~/{root.name}", "screw").train_paths) == 5


def test_two_images_for_a_mask(root):
    write(root / "screw/test/scratch/000.jpg")
    expected = r"scratch/000_mask.png: is the mask of \S*/000.jpg and of \S*/000.png: rename one"
    with pytest.raises(DatasetError, match=expected):
        screw(root).setup()


def test_a_category_can_be_a_number(root):
    (root / "screw").rename(root / "7")
    data = MVTec(root, 7)  # as Hydra reads data.category=7
    data.setup()
    assert data.name == "7"
    (root / "7").rename(root / "1_1_1")
    expected = r"no category '111' \(did you mean '1_1_1'\? .*: 'data.category=\"1_1_1\"'\); it has"
    with pytest.raises(DatasetError, match=expected):
        MVTec(root, 111).setup()


def test_defect_image_without_mask(root):
    mask = root / "screw/ground_truth/scratch/001_mask.png"
    mask.unlink()
    expected = f"/test/scratch/001.png: .* needs its mask, expected at {re.escape(str(mask))}"
    with pytest.raises(DatasetError, match=expected):
        screw(root).setup()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_mask_of_another_size(root, num_workers):
    write(root / "screw/ground_truth/bent/000_mask.png", width=50)
    expected = (
        r"^\S*/ground_truth/bent/000_mask\.png: the mask is 40 x 50 px,"
        r" its image \S*/test/bent/000\.png is 40 x 60 px$"
    )
    with pytest.raises(DatasetError, match=expected):
        screw(root).setup()  # before the fit
    with pytest.raises(DatasetError, match=expected) as caught:
        list(screw(root, num_workers=num_workers).test_dataloader())
    clear_frames(caught.tb)  # torch's re-raise is a reference cycle: it would keep the worker


@pytest.mark.skipif(not BOTTLE.is_dir(), reason=f"needs MVTec AD's bottle at {BOTTLE}")
def test_real_bottle():
    data = MVTec(BOTTLE.parent, "bottle")
    data.setup()
    assert len(data.train_paths) == 209
    assert len(data.test_samples) == 83
    batches = list(data.test_dataloader())
    anomalous = torch.cat([batch["mask"].any(dim=(1, 2)) for batch in batches])
    assert anomalous.sum() == 63  # the crop cuts off no defect
    assert torch.equal(anomalous.long(), torch.cat([batch["label"] for batch in batches]))
