"""Passes that are kept: what follows needs no image, and nothing stale is used."""

import os
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from padim import Backbone, load_checkpoint
from runs import TINY, failure, metrics
from trees import mvtec_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mvtec_tree(tmp_path / "data", train=9)
    return tmp_path / "data"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images that went through the network."""
    seen: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", counted)
    return seen


class Kept:
    """Commands that share a cache, and what one gives without it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self.cache = folder / "cache"

    def fit(self, name: str, *options: str, cached: bool = True) -> Path:
        folder = self.folder / name
        place = "hydra.sweep.dir" if "-m" in options else "hydra.run.dir"
        cache = [f"sweep.cache={self.cache}"] * cached
        main(["fit", *TINY, f"data.root={self.root}", f"{place}={folder}", *cache, *options])
        return folder

    @property
    def files(self) -> list[Path]:
        return sorted(self.cache.rglob("*.pt"))


@pytest.fixture
def kept(root: Path, tmp_path: Path) -> Kept:
    return Kept(root, tmp_path)


GRID = ["-m", "backbone.layers=[1],[1,2]", "reduction.d=4"]


def test_what_follows_needs_no_image(kept: Kept, seen: list[int]) -> None:
    kept.fit("first", *GRID)
    assert sum(seen) == 9 + 4
    more = ["backbone.layers=[2,1]", "reduction.d=6", "gaussian.shrinkage=auto"]
    second = kept.fit("second", *more)
    grid = kept.fit(
        "grid", "-m", "backbone.layers=[1,2]", "reduction=pca,variance", "reduction.d=5"
    )
    assert sum(seen) == 9 + 4
    assert metrics(second) == pytest.approx(metrics(kept.fit("alone", *more, cached=False)))
    assert metrics(grid / "1")
    scores = load_checkpoint(second / "model.ckpt").model.calibration
    known = load_checkpoint(kept.folder / "alone" / "model.ckpt").model.calibration
    assert scores
    assert known
    torch.testing.assert_close(scores.scores, known.scores)


def test_made_defects_have_a_pass_beside(kept: Kept, seen: list[int]) -> None:
    options = ["backbone.layers=[1]", "reduction.d=4"]
    kept.fit("first", *options)
    before = sum(seen)
    kept.fit("second", *options, "select=true")
    made = sum(seen) - before
    assert made == 7 + 2 * (1 + 6 * 25)  # the fit's own pass is the one that is kept
    kept.fit("third", *options, "select=true", "gaussian.eps=0.1")
    assert sum(seen) == before + made


def test_all_categories_are_kept(kept: Kept, seen: list[int]) -> None:
    mvtec_tree(kept.root, "gadget", train=8)
    options = ["data.category=all", "backbone.layers=[1]", "reduction.d=4"]
    kept.fit("first", *options)
    count = sum(seen)
    again = kept.fit("again", *options, "gaussian.eps=0.1")
    assert sum(seen) == count == 9 + 4 + 8 + 4
    assert (again / "gadget" / "model.ckpt").exists()


CHANGES = {
    "image": lambda root: os.utime(next(root.rglob("train/good/*.png")), (1, 1)),
    "one more": lambda root: mvtec_tree(root, train=10),
    "mask": lambda root: os.utime(next(root.rglob("ground_truth/*/*.png")), (1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_images_are_another_pass(kept: Kept, seen: list[int], change: str) -> None:
    kept.fit("first", *GRID)
    CHANGES[change](kept.root)
    before = sum(seen)
    kept.fit("second", *GRID)
    assert sum(seen) > before


OTHERS = ["preprocessing.resize=48", "loading.batch_size=2", "seed=1", "backbone.layers=[3]"]


@pytest.mark.parametrize("other", OTHERS)
def test_other_settings_are_another_pass(kept: Kept, seen: list[int], other: str) -> None:
    kept.fit("first", "backbone.layers=[1]", "reduction.d=4")
    kept.fit("second", "backbone.layers=[1]", "reduction.d=4", other)
    assert sum(seen) == 2 * (9 + 4)
    assert len(kept.files) == 2


def test_other_weights_are_another_pass(kept: Kept, seen: list[int], tmp_path: Path) -> None:
    options = ["backbone.layers=[1]", "reduction.d=4", f"backbone.weights={tmp_path / 'w.pth'}"]
    import timm

    for number in range(2):
        torch.manual_seed(number)
        torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
        kept.fit(str(number), *options)
    assert sum(seen) == 2 * (9 + 4)


@pytest.mark.parametrize("damage", ["bit", "cut", "text"])
def test_damage_is_noticed(kept: Kept, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    first = kept.fit("first", "backbone.layers=[1]", "reduction.d=4")
    (file,) = kept.files
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"bit": content, "cut": content[:1000], "text": b"text"}
    file.write_bytes(damaged[damage])
    second = kept.fit("second", "backbone.layers=[1]", "reduction.d=4")
    assert "is damaged" in capsys.readouterr().err
    assert metrics(second) == metrics(first)
    kept.fit("third", "backbone.layers=[1]", "reduction.d=4")
    assert "No image is read" in capsys.readouterr().err


def test_a_folder_that_takes_no_files(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    kept.cache.write_text("no folder")
    assert metrics(kept.fit("first", "backbone.layers=[1]", "reduction.d=4"))
    assert "The pass is not kept" in capsys.readouterr().err


def test_several_devices_are_told(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["trainer=ddp_cpu", "trainer.devices=2", "backbone.layers=[1]", "reduction.d=4"]
    arguments = ["fit", *TINY, f"data.root={kept.root}", f"sweep.cache={kept.cache}", *options]
    said = failure(capsys, [*arguments, f"hydra.run.dir={kept.folder / 'run'}"])
    assert "sweep.cache is for one device" in said
