"""What a model file or a run folder of a stranger cannot do."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from PIL import Image

import datamodules
from datamodules import ImageError, read_image
from experiments.cli import main
from experiments.trust import DATA_MODULES, PARTS, trusted_data, trusted_overrides
from padim import CheckpointError
from runs import SMALL, failure
from trees import mvtec_tree

CALLS: list[dict[str, Any]] = [
    {"_target_": "datamodules.decoding.Path.write_text", "_args_": ["marker", "written"]},
    {"_target_": "datamodules.decoding.Path.unlink", "_args_": ["marker"]},
    {"_target_": "datamodules.loading.torch.load", "f": "marker", "weights_only": False},
    {"_target_": "datamodules.decoding.np.load", "file": "marker", "allow_pickle": True},
    {"_target_": "datamodules.download.shutil.copyfile", "src": "/etc/hostname", "dst": "marker"},
    {"_target_": "datamodules.download.urllib.request.urlretrieve", "url": "file:///etc/hostname"},
    {"_target_": "datamodules.download.download_archive", "url": "file:///x"},
    {"_target_": "datamodules.demo.generate.make_demo", "root": "marker", "category": "flange"},
    {"_target_": "datamodules.files.glob.os.system", "command": "touch marker"},
    {"_target_": "os.mkdir", "path": "marker"},
    {"_target_": "builtins.eval", "_args_": ["1"]},
    {"_target_": "hydra.utils.get_method", "path": "os.system"},
    {"_target_": "subprocess.Popen", "args": ["touch", "marker"], "_partial_": True},
    {"_target_": "datamodules.MVTec", "root": "marker", "download": True},
]
"""Objects in a configuration that would do something when they are instantiated."""

PLACES: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda call: {"preprocessing": {"rotation_crop": call}},
    lambda call: {"root": call},
    lambda call: {"roi": [0, 0, call, 3]},
    lambda call: {"resize": {"deep": [{"deeper": call}]}},
]

TOP = [call for call in CALLS if call["_target_"] != "datamodules.MVTec"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trust")
    mvtec_tree(folder)
    argv = sys.argv
    try:
        main(["fit", *SMALL, f"data.root={folder}", f"hydra.run.dir={folder / 'run'}"])
    finally:
        sys.argv = argv
    return folder / "run"


def changed(run: Path, path: Path, **data: Any) -> Path:
    """A model file whose data configuration says something else."""
    content = torch.load(run / "model.ckpt", weights_only=True)
    content["hyper_parameters"]["data"].update(data)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call["_target_"])
@pytest.mark.parametrize("place", PLACES)
def test_no_object_is_built_that_is_not_on_the_list(
    call: dict[str, Any], place: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    with pytest.raises(CheckpointError, match=r"which is no data of this project|no plain value"):
        trusted_data({"_target_": "datamodules.MVTec", "root": "x", **place(call)})


@pytest.mark.parametrize("call", TOP, ids=lambda call: call["_target_"])
def test_nor_in_place_of_the_data(call: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=f"the file names {call['_target_']}"):
        trusted_data(call)


@pytest.mark.parametrize("command", [["evaluate"], ["update"], ["calibrate", "test_set=true"]])
def test_commands_build_nothing_that_a_model_file_names(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    marker = tmp_path / "marker"
    call = {"_target_": "datamodules.decoding.Path.write_text", "_args_": [str(marker), "x"]}
    path = changed(run, tmp_path / "evil.ckpt", pose=call)
    name, *more = command
    best = ["threshold.by=best_f1"] if name == "calibrate" else []
    said = failure(capsys, [name, str(path), *more, *best, f"hydra.run.dir={tmp_path / 'out'}"])
    assert "names datamodules.decoding.Path.write_text (data.pose._target_)" in said
    assert not marker.exists()


def test_no_interpolation_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"data\.root is no plain value"):
        trusted_data({"_target_": "datamodules.MVTec", "root": "${oc.env:HOME}"})


def test_a_file_downloads_nothing() -> None:
    saved = {"_target_": "datamodules.MVTec", "root": "x", "download": True, "download_url": "u"}
    assert trusted_data(saved) == {"_target_": "datamodules.MVTec", "root": "x"}


def test_a_file_names_no_folder_for_a_cache() -> None:
    loading = {"_target_": "datamodules.Loading", "batch_size": 4}
    saved = {"_target_": "datamodules.MVTec", "loading": {**loading, "cache": "/etc"}}
    assert trusted_data(saved) == {"_target_": "datamodules.MVTec", "loading": loading}


def test_demo_images_are_not_made_because_a_file_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(
        run,
        tmp_path / "demo.ckpt",
        _target_="datamodules.Demo",
        category="flange",
        root=str(tmp_path / "made"),
    )
    failure(capsys, ["evaluate", str(path), f"hydra.run.dir={tmp_path / 'out'}"])
    assert not (tmp_path / "made").exists()


def test_the_data_of_an_older_model_file_are_read() -> None:
    pose = {"_target_": "datamodules.RandomPose", "seed": 3}
    old = {"_target_": "datamodules.MVTec", "root": "x", "resize": 64, "crop": None, "roi": None}
    assert trusted_data({**old, "batch_size": 8, "num_workers": 0, "pose": pose}) == {
        "_target_": "datamodules.MVTec",
        "root": "x",
        "preprocessing": {
            "_target_": "datamodules.Preprocessing",
            "bits": 16,
            "resize": 64,
            "crop": None,
            "roi": None,
            "rotation_crop": {"_target_": "datamodules.RandomRotationCrop", "seed": 3},
        },
        "loading": {"_target_": "datamodules.Loading", "batch_size": 8, "num_workers": 0},
    }


def test_what_the_user_names_is_trusted() -> None:
    saved = {"_target_": "mine.Data", "root": "x", "loading": {"_target_": "mine.Loading"}}
    assert trusted_data(saved, ["_target_", "loading"]) == saved
    with pytest.raises(CheckpointError, match=r"data\.loading\._target_=mine\.Loading"):
        trusted_data(saved, ["_target_"])


def test_every_class_that_a_file_can_name_is_one_of_this_project() -> None:
    """The list is kept by hand: whatever is added to it must be a data module or a plain record."""
    for name, target in DATA_MODULES.items():
        assert issubclass(target, datamodules.LabelledData), name
        assert target.__module__.startswith("datamodules."), name
    assert set(PARTS.values()) <= {f"datamodules.{name}" for name in datamodules.__all__}


@pytest.mark.parametrize(
    "override",
    [
        "data._target_=os.system",
        "+trainer.callbacks=[{_target_:os.system}]",
        "hydra.launcher._target_=os.system",
        "hydra.sweep.subdir=../../../etc",
        "hydra.searchpath=[file:///tmp]",
        "data.download=true",
        "data.download_url=http://example.com",
        "logger.wandb.project=theirs",
        "trainer.default_root_dir=/etc",
        "loading.cache=/etc",
        "sweep.cache=/etc",
        "sweep.variants=theirs.yaml",
        "hydra.sweeper.storage=sqlite:////etc/study.db",
        "data.root=${oc.env:HOME}",
    ],
)
def test_a_run_folder_sets_nothing_that_runs_or_writes(override: str) -> None:
    plain = ["data=demo", "reduction.d=5", "logger=none", "hydra.mode=MULTIRUN"]
    plain.append("hydra.sweeper.n_trials=60")
    with pytest.raises(ValueError, match="give it again beside resume=FOLDER"):
        trusted_overrides([*plain, override], [])
    assert trusted_overrides([*plain, override], [override])[-1] == override


def test_resume_of_a_strangers_folder_runs_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    copytree(run, theirs)
    file = theirs / ".hydra" / "hydra.yaml"
    file.write_text(file.read_text().replace("backbone.name=test_resnet", "data._target_=os.mkdir"))
    said = failure(capsys, ["fit", f"resume={theirs}"])
    assert "the folder sets data._target_=os.mkdir" in said


def test_a_report_imports_and_reads_nothing_beyond_the_folder(run: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    copytree(run, theirs)
    secret = tmp_path / "secret_image.jpg"
    secret.write_bytes(b"a secret")
    config, gallery = theirs / "config.yaml", theirs / "gallery" / "gallery.json"
    config.write_text(config.read_text().replace("datamodules.MVTec", "strange.module.Data"))
    described = json.loads(gallery.read_text())
    described["images"][0]["name"] = "../../secret"
    gallery.write_text(json.dumps(described))
    link = theirs / "gallery" / f"{described['images'][1]['name']}_image.jpg"
    link.unlink()
    link.symlink_to(secret)
    main(["report", str(theirs)])
    assert "YSBzZWNyZXQ" not in (theirs / "report.html").read_text()


def test_no_format_is_decoded_that_starts_another_program(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    with pytest.raises(ImageError, match="not an image"):
        read_image(path)


def test_names_do_not_become_formulas(run: Path, tmp_path: Path) -> None:
    (tmp_path / "=1+1").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "=1+1" / "a.png")
    normal = run.parent / "widget" / "test" / "good"
    data = ["data=folder", f"data.normal_test={normal}", f"data.abnormal='{tmp_path / '=1+1'}'"]
    size = ["preprocessing.resize=64", "preprocessing.crop=null", "loading.num_workers=0"]
    main(["evaluate", str(run), *data, *size, f"hydra.run.dir={tmp_path / 'run'}"])
    assert "'=1+1" in (tmp_path / "run" / "predictions.csv").read_text()
