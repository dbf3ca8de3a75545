import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image

from datamodules import DatasetError, Folder, normal_folder
from trees import data_module


def write(path: Path, grey: int = 0, size: tuple[int, int] = (60, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Ten normal images in two folders, three abnormal ones with masks, and what is no image."""
    for i in range(10):
        write(tmp_path / f"good/line{i % 2}/{i:03}.png", grey=i)
    for name in ("scratch/000", "scratch/001", "dent/000"):
        write(tmp_path / f"bad/{name}.jpg")
        write(tmp_path / f"masks/{name}_mask.png", grey=255)
    for name in ("good/readme.txt", "good/._000.png", "bad/scratch/Thumbs.db"):
        (tmp_path / name).write_text("no image")
    return tmp_path


def folder(parts: Path, **options) -> Folder:
    paths = {k: parts / v for k, v in options.items() if k in Folder.path_keys}
    options = {"resize": 32, "num_workers": 0} | options | paths
    data = data_module(Folder, **options)
    data.setup("fit")
    return data


def relative(paths, parts: Path) -> list[str]:
    return [path.relative_to(parts).as_posix() for path in paths]


def of_defect(data: Folder, defect: str) -> list[Path]:
    return [sample.path for sample in data.test_samples if sample.defect == defect]


def test_normal_images_alone_are_all_fitted_on(parts):
    data = folder(parts, normal="good")
    (batch,) = data.train_dataloader()
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    assert batch["path"] == list(map(str, data.train_paths))
    assert not data.has_test
    assert data.name == parts.name


def test_abnormal_images_are_tested_beside_normal_ones_that_are_held_out(parts):
    data = folder(parts, normal="good", abnormal="bad")
    assert [sample.defect for sample in data.test_samples] == [
        *("dent", "good", "good", "scratch", "scratch")
    ]
    assert len(data.train_paths) == 8
    everything = sorted(data.train_paths + of_defect(data, "good"))
    assert everything == sorted((parts / "good").glob("*/[0-9]*.png"))
    (batch,) = data.test_dataloader()
    assert batch["label"].tolist() == [1, 0, 0, 1, 1]
    assert not batch["mask_known"].any()
    assert not batch["mask"].any()


def test_masks_are_found_by_the_names_of_defect_and_image(parts):
    data = folder(parts, normal="good", abnormal="bad", masks="masks")
    (batch,) = data.test_dataloader()
    assert batch["mask_known"].all()
    assert batch["mask"].all(dim=(1, 2)).tolist() == [True, False, False, True, True]


@pytest.mark.parametrize(
    "name", ["000.png", "000_mask.bmp", "000-mask.png", "000_gt.png", "000_label.TIF"]
)
def test_names_of_masks(parts, name):
    shutil.rmtree(parts / "masks")
    write(parts / "masks" / name)
    data = folder(parts, normal="good", abnormal="bad/scratch", masks="masks")
    assert [sample.masks for sample in data.test_samples if sample.label] == [
        (parts / "masks" / name,),
        (),
    ]


@pytest.mark.parametrize("place", ["", "bad", "deep/er", "deep"])
def test_places_of_masks(parts, place):
    """Beside all others, in a folder of the defect's name, or in the same folders as the image."""
    image = write(parts / ("bad" if place in ("", "bad") else "bad/deep/er") / "x.png")
    mask = write(parts / "masks" / place / "x_mask.png")
    data = folder(parts, normal="good", abnormal="bad", masks="masks")
    assert {s.path: s.masks for s in data.test_samples}[image] == (mask,)


def test_a_mask_of_another_defect_is_not_taken(parts):
    (parts / "masks/dent/000_mask.png").unlink()
    data = folder(parts, normal="good", abnormal="bad", masks="masks")
    assert [s.masks for s in data.test_samples if s.defect == "dent"] == [()]
    (batch,) = data.test_dataloader()
    assert batch["mask_known"].tolist() == [False, True, True, True, True]


def test_missing_masks_are_told_of(parts, caplog):
    (parts / "masks/dent/000_mask.png").unlink()
    with caplog.at_level(logging.INFO):
        folder(parts, normal="good", abnormal="bad", masks="masks")
    assert "2 of 3 abnormal images have a mask; the others count for" in caplog.text


def test_defects_are_named_after_folders(parts):
    write(parts / "bad/deep/er/x.png")
    write(parts / "bad/y.png")
    by_name = {
        s.path.name: s.defect for s in folder(parts, normal="good", abnormal="bad").test_samples
    }
    assert (by_name["x.png"], by_name["y.png"], by_name["001.jpg"]) == ("deep", "bad", "scratch")
    pattern = folder(parts, normal="good", abnormal="bad/s*/*.jpg")
    assert {s.defect for s in pattern.test_samples} == {"good", "scratch"}


def test_patterns_files_and_lists(parts):
    given = [parts / "good/line0", str(parts / "good/**/003.png"), parts / "good/line1/001.png"]
    data = Folder(normal=given, normal_test=str(parts / "good/line1/00[579].png"))
    data.setup()
    assert relative(data.train_paths, parts) == [
        *(f"good/line0/00{i}.png" for i in (0, 2, 4, 6, 8)),
        *("good/line1/001.png", "good/line1/003.png"),
    ]
    assert relative(of_defect(data, "good"), parts) == [f"good/line1/00{i}.png" for i in (5, 7, 9)]
    assert data.name == "line0"


@pytest.mark.parametrize(
    ("normal", "name"),
    [
        ("bad", "bad"),
        ("bad/", "bad"),
        ("bad/**/*.jpg", "bad"),
        ("good/line1/001.png", "line1"),
        ("nut/train/Good", "nut"),
        ("nut/normal/*.png", "nut"),
        ("nut/ok", "nut"),
        ("/good", "good"),
        (["good/line1", "good"], "line1"),
        ("gone", "gone"),
    ],
)
def test_it_is_called_after_the_folder(parts, monkeypatch, normal, name):
    monkeypatch.chdir(parts)
    assert Folder(normal=normal).name == normal_folder(normal).name == name
    assert Folder(normal=normal, name="nut").name == "nut"
    assert Folder(normal="*.png").name == parts.name


@pytest.mark.parametrize(
    ("options", "held_out"),
    [
        ({}, 0),
        ({"abnormal": "bad"}, 2),
        ({"abnormal": "bad", "held_out": 0}, 0),
        ({"abnormal": "bad", "held_out": 0.01}, 1),
        ({"abnormal": "bad", "held_out": 0.99}, 9),
        ({"held_out": 0.5}, 5),
    ],
)
def test_share_held_out(parts, options, held_out):
    data = folder(parts, normal="good", **options)
    assert len(of_defect(data, "good")) == held_out
    assert len(data.train_paths) == 10 - held_out


def test_the_split_follows_from_the_seed_wherever_the_folder_is(parts, tmp_path, monkeypatch):
    drawn = [
        relative(of_defect(folder(parts, normal="good", held_out=0.3, split_seed=s), "good"), parts)
        for s in range(20)
    ]
    assert len(set(map(tuple, drawn))) > 10
    assert {name for names in drawn for name in names} == {
        f"good/line{i % 2}/{i:03}.png" for i in range(10)
    }
    moved = tmp_path / "else" / "where"
    shutil.copytree(parts / "good", moved / "good")
    monkeypatch.chdir(moved)
    here = Folder(normal="good/line*", held_out=0.3, split_seed=3)
    here.setup()
    assert [str(path) for path in of_defect(here, "good")] == drawn[3]


def test_normal_images_to_test_on_are_not_held_out_of_others(parts):
    data = folder(parts, normal="good/line0", normal_test="good/line1", abnormal="bad")
    assert len(data.train_paths) == len(of_defect(data, "good")) == 5


def test_a_test_does_not_need_the_images_of_the_fit(parts):
    data = Folder(normal=parts / "gone", normal_test=parts / "good", abnormal=parts / "bad")
    data.setup("test")
    assert len(data.test_samples) == 13


def test_images_of_different_sizes(parts):
    write(parts / "good/large.png", size=(200, 90))
    data = folder(parts, normal="good", resize=[24, 48], resize_mode="letterbox")
    (batch,) = data.train_dataloader()
    assert batch["image"].shape == (11, 3, 24, 48)


def test_letterboxed_masks_are_cut_to_what_is_no_padding(parts):
    write(parts / "bad/dent/000.jpg", size=(20, 80))
    write(parts / "masks/dent/000_mask.png", grey=255, size=(20, 80))
    options = {"normal": "good", "abnormal": "bad", "masks": "masks", "resize_mode": "letterbox"}
    data = folder(parts, **options)
    (batch,) = data.test_dataloader()
    assert [tuple(mask.shape) for mask in batch["mask"]] == [(32, 8)] + [(21, 32)] * 4
    assert [bool(mask.all()) for mask in batch["mask"]] == [True, False, False, True, True]
    assert batch["window"][:2].tolist() == [[0, -12, 32, 20], [-5, 0, 27, 32]]
    assert data.picture(batch["path"][0]).shape == (3, 32, 8)
    original = folder(parts, **options, resolution="original")
    (batch,) = original.test_dataloader()
    assert [tuple(mask.shape) for mask in batch["mask"]] == [(80, 20)] + [(40, 60)] * 4
    assert torch.allclose(batch["window"][0], torch.tensor([0.0, -30, 80, 50]))


def fails(parts: Path, message: str, **options) -> None:
    with pytest.raises(ValueError, match=message):
        folder(parts, **options)


def test_normal_is_not_given(parts):
    fails(parts, "^data.normal is not given: name the folder of normal images", abnormal="bad")


@pytest.mark.parametrize("key", ["normal", "abnormal", "normal_test"])
@pytest.mark.parametrize("item", ["none", "none/*.png", "empty"])
def test_an_input_without_images(parts, key, item):
    (parts / "empty").mkdir()
    expected = f"^data.{key}: {re.escape(str(parts / item))}: no images found; expected a file, a"
    fails(parts, expected, **{"normal": "good", key: item})


def test_masks_without_images(parts):
    (parts / "empty").mkdir()
    given = {"normal": "good", "abnormal": "bad"}
    fails(parts, "^data.masks: .*/empty: no images found$", **given, masks="empty")
    fails(parts, "^data.masks: .*/none: no such folder$", **given, masks="none")


def test_the_same_folder_as_normal_and_abnormal(parts):
    expected = "good/line0/000.png: is given twice, by data.abnormal and by data.normal$"
    fails(parts, expected, normal="good", abnormal="good/line0")


def test_an_image_under_two_names(parts, monkeypatch):
    (parts / "link").symlink_to(parts / "good/line1")
    expected = "link/001.png: is given twice, by data.normal_test and by data.normal$"
    with pytest.raises(DatasetError, match=expected.replace("link", "good/line1")):
        folder(parts, normal="good", normal_test="link")
    monkeypatch.chdir(parts)
    with pytest.raises(DatasetError, match=r"is given twice, by data.normal and by data.normal$"):
        Folder(normal=["good", str(parts / "good")], held_out=0.5).setup()


def test_masks_among_the_images(parts):
    expected = "masks/dent/000_mask.png: is given twice, by data.abnormal and by data.masks$"
    (parts / "masks").rename(parts / "bad/masks")
    fails(parts, expected, normal="good", abnormal="bad", masks="bad/masks")


def test_two_masks_for_an_image(parts):
    second = write(parts / "masks/scratch/001.png")
    expected = rf"bad/scratch/001.jpg: its mask may be {second} or \S*/001_mask.png: keep one"
    fails(parts, expected, normal="good", abnormal="bad", masks="masks")


def test_two_images_for_a_mask(parts):
    shutil.rmtree(parts / "masks")
    write(parts / "masks/000.png")
    expected = (
        r"^\S*masks/000.png: may be the mask of \S*/bad/dent/000.jpg or of \S*/bad/scratch/000.jpg:"
        r" put masks into folders named as the defects, \S*/masks/<defect>$"
    )
    fails(parts, expected, normal="good", abnormal="bad", masks="masks")


def test_two_images_of_one_stem(parts):
    write(parts / "bad/dent/000.png")
    expected = (
        r"000_mask.png: may be the mask of \S*/000.jpg or of \S*/000.png: rename one of them$"
    )
    fails(parts, expected, normal="good", abnormal="bad", masks="masks")


def test_masks_that_match_nothing(parts):
    write(parts / "else/7.png")
    expected = (
        r"no mask in \S*/else is named as an image of data.abnormal.*/else/dent/000_mask.png$"
    )
    fails(parts, expected, normal="good", abnormal="bad", masks="else")


def test_good_is_no_defect(parts):
    write(parts / "bad/good/1.png")
    expected = "bad/good/1.png: a folder 'good' is among the abnormal images: give it as"
    fails(parts, expected, normal="good", abnormal="bad")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": 1}, "held_out is the share .* below 1, got 1$"),
        ({"held_out": -0.1}, "held_out is the share .* got -0.1$"),
        ({"held_out": 0.2, "normal_test": "bad"}, "held_out and data.normal_test are both given"),
        ({"masks": "masks"}, "data.masks needs data.abnormal"),
        ({"resolution": "full"}, "resolution must be one of .*'original'.*, got 'full'"),
    ],
)
def test_options_that_make_no_sense(parts, options, message):
    fails(parts, message, normal="good", **options)


def test_a_mask_of_another_size(parts):
    write(parts / "masks/dent/000_mask.png", size=(50, 40))
    expected = "dent/000_mask.png: the mask is 40 x 50 px, its image"
    fails(parts, expected, normal="good", abnormal="bad", masks="masks")


def test_all_headers_are_read_before_the_fit(parts):
    for i in range(7):
        write(parts / f"bad/cut/{i}.png", size=(60 + i, 40))
        write(parts / f"masks/cut/{i}.png")
    write(parts / "good/line0/empty.png").write_bytes(b"")
    expected = r"\A(\S+/cut/[1-5].png: the mask is 40 x 60 px, its image .* px\n){5}and 1 more\Z"
    fails(parts, expected, normal="good", abnormal="bad", masks="masks")
    expected = r"\A\S+/line0/empty.png: the file is empty \(0 bytes\)\Z"
    fails(parts, expected, normal="good/line1", normal_test="good/line0")


@pytest.mark.parametrize("size", [(60, 40), (40, 60)])
def test_a_mask_of_an_image_that_is_turned(parts, size):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (60, 40)).save(parts / "bad/dent/000.jpg", exif=exif)
    write(parts / "masks/dent/000_mask.png", size=size)
    assert folder(parts, normal="good", abnormal="bad", masks="masks").has_test


def test_copies_are_counted(parts, caplog):
    caplog.set_level(logging.WARNING)
    folder(parts, normal="good")
    assert not caplog.messages
    for i in range(3):
        shutil.copy(parts / "good/line0/000.png", parts / f"good/line1/copy{i}.png")
    shutil.copy(parts / "good/line0/002.png", parts / "good/copy.png")
    data = folder(parts, normal="good")
    data.setup("fit")  # as Lightning does again
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "4 of 14 training images are copies of others"
    ]
    Folder(normal=parts / "good", held_out=0.1).setup("test")
    assert len(caplog.messages) == 1


def test_images_that_only_links_lead_to(parts, caplog):
    (parts / "bad/dent").rename(parts / "dents")
    (parts / "bad/dent").symlink_to(parts / "dents")
    (parts / "good/line1").rename(parts / "day")
    (parts / "good/line1").symlink_to(parts / "day")
    for given in ("good", "good/**"):
        data = folder(parts, normal=given, abnormal="bad", masks="masks", held_out=0)
        assert len(data.train_paths) == 10
        assert [sample.defect for sample in data.test_samples] == ["dent", "scratch", "scratch"]
    assert folder(parts, normal="good/line1").name == "line1"


def test_what_no_one_means_is_no_defect(parts, caplog):
    for name in ("bad/.ipynb_checkpoints/000.jpg", "bad/__MACOSX/scratch/000.jpg", "bad/._1.jpg"):
        write(parts / name)
    with caplog.at_level(logging.INFO):
        data = folder(parts, normal="good", abnormal="bad")
    assert {sample.defect for sample in data.test_samples} == {"good", "dent", "scratch"}
    assert "data.abnormal: left out are 3 hidden or the system's" in caplog.text
