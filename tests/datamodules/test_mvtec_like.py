"""MVTec-like data sets, on small trees in their published layouts."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from PIL import Image

from datamodules import BTAD, MPDD, CategoryData, DatasetError, MVTec, MVTecLOCO, VisA
from trees import data_module

SMALL = {"resize": None, "crop": 32, "num_workers": 0}


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 40), (90, 120, 150)).save(path)


def mask(path: Path, left: int = 10, value: int = 255) -> None:
    """A bar of 4 columns; the crop starts at column 8, so at `left` - 8 there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((40, 48), dtype=np.uint8)
    pixels[:, left : left + 4] = value
    Image.fromarray(pixels).save(path)


def visa(root: Path) -> None:
    rows = ["object,split,label,image,mask"]
    for category in ("candle", "pcb1"):
        for index, split in ((836, "train"), (2, "train"), (7, "test")):
            name = f"{category}/Data/Images/Normal/{index:04}.JPG"
            image(root / name)
            rows.append(f"{category},{split},normal,{name},")
        for index in (1, 0):
            name = f"{category}/Data/Images/Anomaly/{index:03}.JPG"
            mask_name = f"{category}/Data/Masks/Anomaly/{index:03}.png"
            image(root / name)
            mask(root / mask_name, value=index + 1)  # the published values count the defects
            rows.append(f"{category},test,anomaly,{name},{mask_name}")
        (root / category / "image_anno.csv").write_text("image,label,mask\n")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\r\n".join(rows) + "\r\n")


def btad(root: Path) -> None:
    for category, suffix, mask_suffix in (
        ("01", "bmp", "png"),
        ("02", "png", "png"),
        ("03", "bmp", "bmp"),
    ):
        for index in range(2):
            image(root / category / f"train/ok/{index:04}.{suffix}")
            image(root / category / f"test/ko/{index:04}.{suffix}")
            mask(root / category / f"ground_truth/ko/{index:04}.{mask_suffix}")
        image(root / category / f"test/ok/0000.{suffix}")


def mpdd(root: Path) -> None:
    for index in range(2):
        image(root / f"tubes/train/good/{index:03}.png")
        image(root / f"tubes/test/anomalous/{index:03}.png")
        mask(root / f"tubes/ground_truth/anomalous/{index:03}_mask.png")
    image(root / "tubes/test/good/000.png")


def loco(root: Path) -> None:
    folder = root / "pushpins"
    for name in ("train/good/000", "train/good/001", "validation/good/000", "test/good/000"):
        image(folder / f"{name}.png")
    image(folder / "test/logical_anomalies/000.png")
    mask(folder / "ground_truth/logical_anomalies/000/000.png", left=10, value=254)
    mask(folder / "ground_truth/logical_anomalies/000/001.png", left=20, value=237)
    image(folder / "test/structural_anomalies/000.png")
    mask(folder / "ground_truth/structural_anomalies/000/000.png", left=30)


LAYOUTS = [
    pytest.param(VisA, visa, "candle", ["anomaly", "anomaly", "good"], id="VisA"),
    pytest.param(BTAD, btad, "01", ["ko", "ko", "good"], id="BTAD 01"),
    pytest.param(BTAD, btad, "02", ["ko", "ko", "good"], id="BTAD 02"),
    pytest.param(BTAD, btad, "03", ["ko", "ko", "good"], id="BTAD 03"),
    pytest.param(MPDD, mpdd, "tubes", ["anomalous", "anomalous", "good"], id="MPDD"),
    pytest.param(
        MVTecLOCO,
        loco,
        "pushpins",
        ["good", "logical_anomalies", "structural_anomalies"],
        id="MVTec LOCO",
    ),
]


@pytest.mark.parametrize(("kind", "tree", "category", "defects"), LAYOUTS)
def test_batches_are_those_of_mvtec(tmp_path, kind, tree, category, defects):
    tree(tmp_path)
    data = data_module(kind, tmp_path, category, **SMALL)
    data.prepare_data()
    data.setup()
    assert data.name == category
    assert data.has_test
    assert data.image_size == (32, 32)
    (train,) = data.train_dataloader()
    assert train["image"].shape == (2, 3, 32, 32)
    assert train["path"] == sorted(map(str, data.train_paths))
    (test,) = data.test_dataloader()
    assert set(test) == {"image", "mask", "mask_known", "label", "defect", "path"}
    assert test["mask_known"].all()
    assert test["image"].dtype == torch.uint8
    assert test["defect"] == defects
    assert test["label"].tolist() == [int(defect != "good") for defect in defects]
    assert test["mask"].dtype == torch.bool
    bars = {"good": 0, "logical_anomalies": 2}
    assert test["mask"].sum(dim=(1, 2)).tolist() == [32 * 4 * bars.get(d, 1) for d in defects]


@pytest.mark.parametrize(("kind", "tree", "category", "defects"), LAYOUTS)
def test_defect_image_without_mask(tmp_path, kind, tree, category, defects):
    tree(tmp_path)
    masks = sorted([*tmp_path.glob(f"{category}/ground_truth/**/*.*"), *tmp_path.glob("*/*/Masks")])
    masks[0].rename(tmp_path / "elsewhere")
    if kind is MVTecLOCO:
        masks[1].unlink()
    with pytest.raises(DatasetError, match=r"needs its mask, expected at|no such file; .* names i"):
        kind(tmp_path, category).setup()


@pytest.mark.parametrize(("kind", "tree", "category", "defects"), LAYOUTS)
def test_missing_root_and_category(tmp_path, kind, tree, category, defects):
    with pytest.raises(DatasetError, match=r"/none: no such folder; put the data there$"):
        kind(tmp_path / "none", category).setup()
    tree(tmp_path)
    with pytest.raises(
        DatasetError, match=rf"no category '{category}x' \(did you mean '{category}"
    ):
        kind(tmp_path, f"{category}x").setup()
    with pytest.raises(DatasetError, match=f"name a category in it; it has .*{category}"):
        kind(tmp_path).setup()


def test_expected_place_of_a_loco_mask(tmp_path):
    loco(tmp_path)
    image(tmp_path / "pushpins/test/logical_anomalies/[1].png")
    expected = re.escape("/logical_anomalies/[1].png: a defect image needs its mask, expected at ")
    with pytest.raises(DatasetError, match=rf"{expected}\S*/logical_anomalies/\[1\]/\*\.png$"):
        MVTecLOCO(tmp_path, "pushpins").setup()
    mask(tmp_path / "pushpins/ground_truth/logical_anomalies/[1]/000.png")
    MVTecLOCO(tmp_path, "pushpins").setup()


def test_visa_without_its_table(tmp_path):
    visa(tmp_path)
    with pytest.raises(DatasetError, match=r"/candle/split_csv/1cls\.csv: no such file; root is"):
        VisA(tmp_path / "candle").setup()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image,mask", "image", "has no column mask"),
        ("candle,train", "candle,dev", "has no training image of 'candle'"),
        ("candle/Data/Masks/Anomaly/001.png", "", "names no mask for .*/Anomaly/001.JPG"),
        ("Normal/0002.JPG", "Normal/0003.JPG", r"/0003.JPG: no such file; .*1cls.csv names it"),
    ],
)
def test_a_damaged_table_of_visa(tmp_path, old, new, message):
    visa(tmp_path)
    table = tmp_path / "split_csv/1cls.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DatasetError, match=message):
        VisA(tmp_path, "candle").setup()


@pytest.mark.parametrize(
    ("kind", "tree", "present", "missing"),
    [
        (VisA, visa, ["candle", "pcb1"], 10),
        (BTAD, btad, ["01", "02", "03"], 0),
        (MPDD, mpdd, ["tubes"], 5),
        (MVTecLOCO, loco, ["pushpins"], 4),
        (MVTec, mpdd, ["tubes"], 15),
    ],
)
def test_present_and_missing_categories(tmp_path, kind, tree, present, missing):
    tree(tmp_path)
    (tmp_path / "notes").mkdir()
    assert kind.present_categories(tmp_path) == present
    assert set(kind.missing_categories(tmp_path)) == set(kind.known_categories) - set(present)
    assert len(kind.missing_categories(tmp_path)) == missing
    assert kind.present_categories(tmp_path / "none") == []


@pytest.mark.parametrize("name", ["visa", "btad", "mpdd", "mvtec_loco", "mvtec", "rd_mvtec"])
def test_a_config_names_a_category_of_its_data_set(name):
    with initialize_config_module("conf", version_base="1.3"):
        data = instantiate(compose("fit", [f"data={name}"]).data)
    assert isinstance(data, CategoryData)
    assert data.category in data.known_categories
    assert (data.preprocessing.rotation_crop is not None) == name.startswith("rd_")
