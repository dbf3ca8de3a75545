"""What tests of several processes share."""

import copy
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pytorch_lightning import Trainer
from torch.multiprocessing import start_processes

from datamodules import Loading, MVTec, Preprocessing
from padim import (
    Backbone,
    Calibration,
    GradientFreeDDP,
    LitPaDiM,
    PaDiM,
    PatchGaussian,
    RandomChannels,
)


def in_processes(number: int, folder: Path, function: Callable, *arguments: Any) -> list[Any]:
    """What a function gives in each of several processes, which a trainer in it connects.

    Args:
        number: of processes; the function's first argument.
        folder: where the results travel.
        function: of a module that the processes can import.
        arguments: further ones.
    """
    multiprocessing.set_forkserver_preload(["padim", "datamodules"])  # imported once for all
    settings = number, find_free_network_port(), folder, function, arguments
    start_processes(_run, settings, number, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def _run(
    rank: int, number: int, port: int, folder: Path, function: Callable, arguments: tuple[Any, ...]
) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.save(function(number, *arguments), folder / f"{rank}.pt")


def fit_and_test(number: int, root: Path) -> dict[str, Any]:
    """What one of some processes sees and knows after a fit, a test, and more.

    Args:
        number: of processes.
        root: has the category "widget".
    """
    several = {"strategy": GradientFreeDDP(), "use_distributed_sampler": False}
    trainer = Trainer(
        accelerator="cpu",
        devices=number,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **several if number > 1 else {},
    )
    torch.manual_seed(trainer.global_rank)  # the weights of the first process are to count
    module = LitPaDiM(
        PaDiM(
            Backbone("test_resnet", [1, 2, 3], "random", image_size=(64, 64)),
            RandomChannels(10),
            PatchGaussian(shrinkage="auto"),
            calibration=Calibration(8, 0.1),
        )
    )
    small = Preprocessing(64, None), Loading(batch_size=4, num_workers=0)
    data = MVTec(root, "widget", *small)
    model, seen = module.model, {}
    trainer.fit(module, datamodule=data)
    seen["trained"] = [path for batch in data.train_dataloader() for path in batch["path"]]
    seen["statistics"] = copy.deepcopy(model.statistics)
    seen["keys"], seen["coefficient"] = model.sample.keys, model.gaussian.coefficient
    seen["scores"] = model.calibration.scores
    metrics = trainer.test(module, datamodule=data, verbose=False)[0]
    seen["metrics"] = {name: metrics[name] for name in metrics if not name.endswith("_s")}
    seen["curves"] = module.curves
    seen["tested"] = [path for batch in data.test_dataloader() for path in batch["path"]]
    module.accumulate = True
    trainer.fit(module, datamodule=data)
    seen["repeated"], seen["fingerprints"] = module.repeated, module.fingerprints
    seen["twice"] = copy.deepcopy(model.statistics)
    return seen
