"""Defects made on normal images that are held out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import DatasetError, MadeDefects, MVTec
from datamodules.made_defects import STRENGTHS, damage, find_part
from trees import data_module, mvtec_tree


def made(root: Path, train: int = 12) -> MadeDefects:
    data = data_module(MVTec, root, "widget", resize=64, crop=None, num_workers=0)
    mvtec_tree(root, train=train)
    return MadeDefects(data)


def test_images_are_held_out_and_shown_whole_and_with_each_kind_of_defect(tmp_path: Path) -> None:
    data = made(tmp_path)
    held_out = {sample.path for sample in data.test_samples}
    assert len(held_out) == 3
    assert len(data.train_paths) == 9
    assert not held_out & set(data.train_paths)
    batches = list(data.test_dataloader())
    masks = torch.cat([batch["mask"] for batch in batches])
    labels = torch.cat([batch["label"] for batch in batches])
    assert labels[:3].sum() == 0
    assert len(labels) >= 303
    assert labels[3:].all()
    assert {kind for batch in batches for kind in batch["defect"]} == {"good", *STRENGTHS}
    assert masks.flatten(1).any(dim=1).tolist() == labels.bool().tolist()
    again = torch.cat([batch["image"] for batch in made(tmp_path).test_dataloader()])
    assert torch.equal(again, torch.cat([batch["image"] for batch in batches]))


def test_too_few_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="takes 8 or more, got 7"):
        made(tmp_path, train=7)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_defect_is_small_and_changes_the_image_where_the_mask_says(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    part = np.argwhere(np.ones((96, 96)))
    for seed in range(5):
        damaged, mask = damage(image, kind, part, np.random.default_rng(seed))
        change = np.abs(damaged.astype(float) - image).sum(axis=2)
        assert 0 < mask.mean() < 0.15
        assert change[mask].mean() > 20 * change[~mask].mean()


def test_the_part_is_what_differs_from_the_border() -> None:
    mean = torch.full((3, 64, 64), 40.0)
    mean[:, 16:48, 16:48] = 150
    mean[:, 28:36, 28:36] = 40  # a hole is of the part
    expected = np.zeros((64, 64), bool)
    expected[20:44, 20:44] = True
    found = find_part(mean)
    assert (found != expected).mean() < 0.02
    assert find_part(mean * 0 + 90).all()  # a texture
