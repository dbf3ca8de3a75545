"""What a user of Lightning and Hydra brings along works in every command."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from torch.utils.data import DataLoader

import padim
from experiments.cli import main
from padim import load_checkpoint
from runs import SMALL, failure, rows
from trees import mvtec_tree

CHECKOUT = Path(padim.__file__).parents[1]
PLAIN = ["data._target_=own_parts.Plain", "~data.category", "~data.download"]
PLAIN += ["~data.preprocessing", "~data.loading"]
MODEL = [option for option in SMALL if option.startswith(("trainer", "backbone"))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mvtec_tree(root)
    return root


def metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def test_a_reduction_of_ones_own(root: Path, tmp_path: Path) -> None:
    own = ["reduction=none", "reduction._target_=own_parts.EveryNth", "+reduction.n=9"]
    small = [option for option in SMALL if not option.startswith("reduction")]
    run, again, found = tmp_path / "run", tmp_path / "again", tmp_path / "found"
    main(["fit", *small, *own, f"data.root={root}", f"hydra.run.dir={run}"])
    kept = load_checkpoint(run).model
    total = sum(layer.channels for layer in kept.backbone.layers)
    assert sum(map(len, kept.channels)) == len(range(0, total, 9))
    main(["evaluate", str(run), "pictures=0", "trainer=cpu", f"hydra.run.dir={again}"])
    assert metrics(again)["pixel/pro"] == pytest.approx(metrics(run)["pixel/pro"], rel=1e-6)
    images = str(root / "widget/test/spot")
    main(["predict", str(run), images, "pictures=false", "trainer=cpu", f"hydra.run.dir={found}"])
    scores = {row["path"]: float(row["score"]) for row in rows(run / "predictions.csv")}
    for row in rows(found / "scores.csv"):
        assert float(row["score"]) == pytest.approx(scores[row["path"]], rel=1e-5)


def test_a_plain_data_module_of_ones_own(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [*PLAIN, f"data.root={root / 'widget'}"]
    run, again = tmp_path / "run", tmp_path / "again"
    main(["fit", *MODEL, "reduction.d=9", *data, f"hydra.run.dir={run}"])
    assert metrics(run)["image/auroc"] == 1
    assert "pixel/auroc" not in metrics(run)
    assert (run / "pictures" / "overview.png").is_file()
    said = failure(capsys, ["fit", *MODEL, *data, f"hydra.run.dir={again}", "select=true"])
    assert "select=true makes defects on image files, and data._target_=Plain has none" in said
    said = failure(capsys, ["evaluate", str(run), f"hydra.run.dir={again}"])
    assert "if you trust it, say so with data._target_=own_parts.Plain" in said
    trusted = ["data._target_=own_parts.Plain", "trainer=cpu", f"hydra.run.dir={again}"]
    main(["evaluate", str(run), *trusted])
    assert metrics(again)["image/auroc"] == 1
    images = [str(root / "widget/test/spot"), f"hydra.run.dir={tmp_path / 'found'}", "trainer=cpu"]
    assert "does not say how its images were prepared" in failure(
        capsys, ["predict", str(run), *images]
    )
    view = ["preprocessing=whole", "preprocessing.resize=64"]
    main(["predict", str(run), *images, *view])
    assert len(rows(tmp_path / "found" / "scores.csv")) == 2


def test_a_callback_and_a_trainers_own_ones_are_used(root: Path, tmp_path: Path) -> None:
    timer = "+callbacks.timer._target_=pytorch_lightning.callbacks.Timer"
    saving = f"_target_:pytorch_lightning.callbacks.ModelCheckpoint,dirpath:'{tmp_path}'"
    options = [timer, f"+trainer.callbacks=[{{{saving}}}]", "pictures=0", f"data.root={root}"]
    main(["fit", *SMALL, *options, f"hydra.run.dir={tmp_path / 'run'}"])
    (found,) = tmp_path.glob("epoch=0*.ckpt")
    assert load_checkpoint(found).model.statistics.count == 6


def test_more_epochs_count_no_image_twice(root: Path, tmp_path: Path) -> None:
    options = ["trainer.max_epochs=3", "pictures=0", f"data.root={root}"]
    main(["fit", *SMALL, *options, f"hydra.run.dir={tmp_path}"])
    assert load_checkpoint(tmp_path).model.statistics.count == 6


def test_a_logger_in_a_notebook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with initialize_config_module("conf", version_base="1.3"):
        config = compose("fit", ["logger=[csv,wandb]", "logger.wandb.mode=offline"])
    loggers = instantiate(config.logger)
    assert isinstance(loggers["csv"], CSVLogger)
    assert isinstance(loggers["wandb"], WandbLogger)


def padim_command(*arguments: str, folder: Path, **variables: str) -> str:
    program = "import sys; from padim_command import main; sys.argv[0] = 'padim'; main()"
    home = [CHECKOUT / "experiments" / "installed", CHECKOUT]
    path = [variables.pop("PYTHONPATH", ""), *map(str, home)]
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [sys.executable, "-P", "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_in_a_project_with_folders_of_the_same_names(tmp_path: Path) -> None:
    for name in ("experiments", "datamodules", "conf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    printed = padim_command("fit", "--cfg", "job", folder=tmp_path, PYTHONPATH=".")
    assert "_target_: padim.Backbone" in printed


def test_completion_version_and_plugins(tmp_path: Path) -> None:
    complete = {"folder": tmp_path, "COMP_LINE": "padim fit data=de"}
    assert padim_command("-sc", "query=bash", **complete).split() == ["data=demo"]
    complete["COMP_LINE"] = "padim f"
    assert "fit" in padim_command("-sc", "query=bash", **complete).split()
    assert padim_command("--version", folder=tmp_path).startswith("padim-lightning ")
    assert "hydra_plugins.padim" in padim_command("fit", "--info", "plugins", folder=tmp_path)


def test_the_readmes_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(
        r"```python\n(from pytorch_lightning import Trainer.*?)```", readme, re.S
    )
    monkeypatch.chdir(tmp_path)
    rng = torch.manual_seed(0)
    images = torch.randint(0, 255, (6, 3, 224, 224), dtype=torch.uint8, generator=rng)
    names = {
        "train_images": DataLoader(images, batch_size=3),
        "test_images": DataLoader([{"image": x, "label": i % 2} for i, x in enumerate(images)]),
        "new_images": DataLoader(images, batch_size=6),
    }
    exec(example, names)
    assert names["scores"][0]["maps"].shape == (6, 224, 224)
    assert list(tmp_path.glob("wandb/offline-run-*"))
