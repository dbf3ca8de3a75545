"""Fit and evaluate anomalib's PaDiM: anomalib_driver.py import|job|score FOLDER.

It runs in an environment that has anomalib, and knows nothing of this project. The folder holds
task.json and backbone.pth; job.json or score.json is written into it. With "import" it only imports
the packages.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from anomalib.data import MVTecAD  # type: ignore[import-not-found]
from anomalib.engine import Engine  # type: ignore[import-not-found]
from anomalib.metrics import AUPRO, AUROC, Evaluator  # type: ignore[import-not-found]
from anomalib.models import Padim  # type: ignore[import-not-found]
from anomalib.pre_processing import PreProcessor  # type: ignore[import-not-found]
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize


class UnitPadim(Padim):
    """Tests on scores below 1.

    Its AUROC takes larger ones for logits, and then they are all 1. Its own remedy, to normalise
    them, would need a pass over a validation set.
    """

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        """A thousandth of what is predicted."""
        batch = super().test_step(batch, batch_idx)
        batch.pred_score, batch.anomaly_map = batch.pred_score / 1e3, batch.anomaly_map / 1e3
        return batch


def run_job(module: Padim, task: dict[str, Any], folder: Path) -> dict[str, float]:
    """Fit, write and evaluate."""
    images, size = Path(task["images"]), task["batch_size"]
    data = MVTecAD(
        root=images.parent,
        category=images.name,
        train_batch_size=size,
        eval_batch_size=size,
        num_workers=task["num_workers"],
    )
    engine = Engine(
        default_root_dir=folder / "anomalib",
        accelerator="gpu" if task["device"] == "cuda" else "cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,  # what validation is for, a threshold, is no part of the job
    )
    fit_s = _clock(lambda: engine.fit(module, datamodule=data), task["device"])
    metrics = engine.test(module, datamodule=data, verbose=False)[0]
    return {
        "cost/fit_s": fit_s,
        "cost/state_gb": sum(buffer.nbytes for buffer in module.model.gaussian.buffers()) / 1e9,
        "model file": Path(engine.best_model_path).stat().st_size,
        "image/auroc": float(metrics["image_AUROC"]),
        "pixel/auroc": float(metrics["pixel_AUROC"]),
        "pixel/pro": float(metrics["pixel_AUPRO"]),
    }


@torch.inference_mode()
def time_score(module: Padim, task: dict[str, Any], folder: Path) -> dict[str, float]:
    """Milliseconds for the distances of one image, its feature maps at hand, and for its score."""
    device = task["device"]
    model, normalize = module.to(device).eval().model, module.pre_processor.transform.transforms[-1]
    image = torch.rand(1, 3, *task["image_size"], device=device)
    features = model.feature_extractor(normalize(image))
    _, d, height, width = model.generate_embedding(features).shape
    # A Gaussian of the right size: the time does not depend on its values.
    stats = [torch.zeros(d, height * width), torch.eye(d).repeat(height * width, 1, 1)]
    model.gaussian.mean, model.gaussian.inv_covariance = stats = [one.to(device) for one in stats]

    def distances() -> None:
        embedding = model.generate_embedding(features)
        model.anomaly_map_generator.compute_distance(embedding, stats)

    tasks = {"distances": distances, "score": lambda: model(normalize(image))}
    counts = range(task["latencies"])
    return {name: 1e3 * median(_clock(run, device) for _ in counts) for name, run in tasks.items()}


def build(task: dict[str, Any], folder: Path) -> Padim:
    """The model, with the weights and channels that are given, and none of the extras."""
    resize = task["resize"]
    shape = [resize, resize] if isinstance(resize, int) else resize
    steps = [
        *([Resize(shape, antialias=True)] if resize else []),
        *([CenterCrop(task["image_size"])] if task["crop"] else []),
        Normalize(task["mean"], task["std"]),
    ]
    image, pixel = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    metrics = [AUROC(image, prefix="image_"), AUROC(pixel, prefix="pixel_")]
    module = UnitPadim(
        backbone=task["backbone"],
        layers=task["layers"],
        pre_trained=False,  # no hub is asked
        n_features=len(task["channels"]),
        pre_processor=PreProcessor(Compose(steps)),
        post_processor=False,
        evaluator=Evaluator(test_metrics=[*metrics, AUPRO(pixel, prefix="pixel_")]),
        visualizer=False,
    )
    network = module.model.feature_extractor.feature_extractor
    given = torch.load(folder / "backbone.pth", map_location="cpu", weights_only=True)
    known = network.state_dict().keys()
    # What is given ends behind the last layer; the network may have more, which nothing is read of.
    network.load_state_dict({key: given[key] for key in known if key in given}, strict=False)
    black = steps[-1](torch.zeros(1, 3, *task["image_size"]))
    means = [float(maps.mean()) for maps in module.model.feature_extractor(black).values()]
    torch.testing.assert_close(means, task["means"], rtol=1e-3, atol=1e-4)
    module.model.idx.copy_(torch.tensor(task["channels"]))
    return module


def _clock(run: Callable[[], object], device: str) -> float:
    """Seconds that a function takes."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


if __name__ == "__main__" and sys.argv[1] != "import":
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[2])
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    torch.manual_seed(task["seed"])
    torch.set_num_threads(task["threads"])
    measure = {"job": run_job, "score": time_score}[sys.argv[1]]
    report = measure(build(task, folder), task, folder)
    (folder / f"{sys.argv[1]}.json").write_text(json.dumps(report), encoding="utf-8")
