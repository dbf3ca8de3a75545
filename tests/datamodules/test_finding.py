"""Which files of a folder are taken, and what is said of the others."""

import logging
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from datamodules import DatasetError, find_inputs
from datamodules.decoding import FORMATS, read_image
from datamodules.finding import IMAGE_SUFFIXES, find_images


def names(folder: Path, *inputs: str, videos: bool = False) -> list[str]:
    """The files found, relative to `folder`."""
    paths = find_inputs([folder / item for item in inputs], videos).files
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_is_searched_to_its_depths(folder):
    assert names(folder, ".") == ["[1].png", "a.jpg", "b.png", "deep/er/c.PNG"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["[1].png", "b.png"]),
        ("*", ["[1].png", "a.jpg", "b.png", "deep/er/c.PNG"]),
        ("**/c.*", ["deep/er/c.PNG"]),
        ("**", ["[1].png", "a.jpg", "b.png", "deep/er/c.PNG"]),
    ],
)
def test_globs(folder, pattern, found):
    assert names(folder, pattern) == found


def test_inputs_keep_their_order_and_count_once(folder):
    assert names(folder, "deep", "b.png", "*.jpg", "b.png", ".") == [
        "deep/er/c.PNG",
        "b.png",
        "a.jpg",
        "[1].png",
    ]


def test_a_file_whose_name_looks_like_a_pattern(folder):
    assert names(folder, "[1].png") == ["[1].png"]


def test_one_input_needs_no_list(folder):
    for item in (folder / "b.png", str(folder / "b.png")):
        assert find_inputs(item).files == {folder / "b.png": folder}


@pytest.mark.parametrize("item", ["none", "none.png", "*.bmp", "*.txt"])
def test_an_input_without_images(folder, item):
    expected = f"^{re.escape(str(folder / item))}: no images found; expected"
    with pytest.raises(DatasetError, match=expected):
        find_inputs([folder / "b.png", folder / item])


def test_videos_are_found_where_asked_for(folder):
    for name in ("deep/film.MP4", "._film.avi"):
        (folder / name).write_bytes(b"content is not looked at")
    images = ["[1].png", "a.jpg", "b.png", "deep/er/c.PNG"]
    assert names(folder, ".") == images
    assert names(folder, ".", videos=True) == [*images, "deep/film.MP4"]
    assert names(folder, "**/*.MP4", "deep", videos=True) == ["deep/film.MP4", "deep/er/c.PNG"]
    assert names(folder, "deep/film.MP4") == ["deep/film.MP4"]  # as any file by its own name
    with pytest.raises(DatasetError, match=r"\*\.txt: no images or videos found; .*\.png, .*\.avi"):
        find_inputs(folder / "*.txt", videos=True)


def test_no_input():
    with pytest.raises(DatasetError, match="no input: give files, folders or quoted patterns"):
        find_inputs([])


def test_what_may_be_empty(folder):
    (folder / "empty").mkdir()
    inputs = [folder / "empty", folder / "b.png", folder / "*.bmp"]
    assert list(find_inputs(inputs, may_be_empty=True).files) == [folder / "b.png"]
    with pytest.raises(DatasetError, match="empty: no images found"):
        find_inputs(inputs)
    with pytest.raises(DatasetError, match="none: no images found"):  # which is not there
        find_inputs([*inputs, folder / "none"], may_be_empty=True)


MESS = (
    *(".ipynb_checkpoints/a.png", "@eaDir/a.jpg/thumb.jpg", ".Trash-1000/files/a.png"),
    *("__MACOSX/._a.png", "._b.png", "deep/.b.png", "$RECYCLE.BIN/a.png"),
)
RUNS = (
    *("runs/1/.hydra/config.yaml", "runs/1/pictures/best_01.png", "runs/1/bottle/gallery/x.jpg"),
    *("sweep/multirun.yaml", "sweep/chart.png", "old/config.yaml", "old/metrics.json", "old/a.png"),
    "mlruns/1/artifacts/a.png",
)


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("pattern", ["", "**", "**/*.*"])
@pytest.mark.parametrize(
    ("mess", "reason"), [(MESS, "7 hidden or the system's"), (RUNS, "4 of a run")]
)
def test_what_no_one_means_is_left_out_and_counted(folder, caplog, mess, reason, pattern):
    put(folder, *mess, ".DS_Store", "Thumbs.db")  # of which no one would think as of images
    with caplog.at_level(logging.INFO):
        found = find_inputs(folder / pattern)
        found.log("data.normal")
    assert list(found.files) == [folder / n for n in ("[1].png", "a.jpg", "b.png", "deep/er/c.PNG")]
    (line,) = caplog.messages
    assert line.startswith("data.normal: left out are ")
    assert f"{reason} (" in line
    assert f"1 no image by its name ({folder.name}/notes.txt)" in line
    assert {".DS_Store", "Thumbs.db"}.isdisjoint(path.name for path in found.left_out)


def test_what_no_one_means_can_be_named(folder):
    put(folder, *MESS, *RUNS)
    assert names(folder, ".ipynb_checkpoints", "._b.png") == [".ipynb_checkpoints/a.png", "._b.png"]
    assert names(folder, "runs/1/pictures/*.png") == ["runs/1/pictures/best_01.png"]


def test_a_run_in_the_folder_of_the_images(folder):
    put(folder, ".hydra/config.yaml", *(f"{n}/x.png" for n in ("pictures", "gallery", "maps")))
    assert names(folder, ".") == ["[1].png", "a.jpg", "b.png", "deep/er/c.PNG"]


def test_links_to_folders_are_followed_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere, "x.png", "y.png")
    for link, target in (
        *(("0", elsewhere), ("1", elsewhere), ("loop", folder), ("deep/loop", folder / "deep")),
        *(("0deep", folder / "deep"), ("link.png", folder / "a.jpg"), ("self", "self")),
    ):
        (folder / link).symlink_to(target)
    expected = ["0/x.png", "0/y.png", *("[1].png", "a.jpg", "b.png", "deep/er/c.PNG", "link.png")]
    for item in (".", "**", "**/*.*", "**/**"):
        assert names(folder, item) == expected
    assert names(folder, "*/*.png") == ["0/x.png", "0/y.png"]
    assert names(folder, "1") == ["1/x.png", "1/y.png"]
    left_out = find_inputs(folder).left_out
    twice = [path.name for path, reason in left_out.items() if reason == "reached twice"]
    assert twice == ["0deep", "1", "loop", "loop"]


def test_what_cannot_be_read_is_named(folder, monkeypatch, caplog):
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    put(folder, "secret/a.png", "only/secret/a.png")
    for name in ("gone.png", "line3"):
        (folder / name).symlink_to(folder / "nowhere")
    found = find_inputs(folder)
    assert found.unread == {
        folder / "gone.png": "no file, or a link to none",
        folder / "line3": "no file, or a link to none",
        folder / "only/secret": "Permission denied",
        folder / "secret": "Permission denied",
    }
    found.log("images")
    assert "2 Permission denied (" in caplog.text
    with pytest.raises(DatasetError, match=r"only: no images found; .*1 Permission denied \("):
        find_inputs(folder / "only")
    for find in (find_inputs, find_images):
        with pytest.raises(DatasetError, match=r"/secret: Permission denied$"):
            find(folder / "secret")


def test_images_of_other_formats_are_named(folder):
    put(folder, "x.avif", "y.tga", "z.tga", "deep/film.mp4")
    with pytest.raises(DatasetError, match=r"left out are 1 no image .* \(deep/film\.mp4\)$"):
        find_inputs(folder / "deep/film.*")
    left_out = find_inputs(folder, videos=True).left_out
    assert left_out == dict.fromkeys(
        [folder / name for name in ("notes.txt", "x.avif", "y.tga", "z.tga")],
        "neither image nor video by its name",
    )


def test_suffixes_are_those_of_what_is_decoded(tmp_path):
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert set(IMAGE_SUFFIXES) == known - {".pfm"}  # of floats
    for suffix in known - {".pfm"}:
        mode = {".pbm": "1", ".pgm": "L"}.get(suffix, "RGB")
        Image.new(mode, (60, 40), 1).save(tmp_path / f"image{suffix}")
    assert len(find_inputs(tmp_path).files) == len(IMAGE_SUFFIXES)
    assert {tuple(read_image(path).shape) for path in find_inputs(tmp_path).files} == {(3, 40, 60)}


def test_find_images_is_sorted_and_takes_images_only(tmp_path):
    put(tmp_path, "b.JPG", "a.png", "._a.png", "notes.txt", "deeper/c.tif")
    assert find_images(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    assert tmp_path / "deeper/c.tif" in find_images(tmp_path, recursive=True)
    assert find_images(tmp_path / "none") == []
