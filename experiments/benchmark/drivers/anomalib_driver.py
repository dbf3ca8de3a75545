"""The job of `experiments.benchmark.job` by anomalib's PaDiM: anomalib_driver.py TASK REPORT.

It runs in an environment that has anomalib, and of this project knows the file beside it alone.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from anomalib.data import MVTecAD  # type: ignore[import-not-found]
from anomalib.engine import Engine  # type: ignore[import-not-found]
from anomalib.metrics import AUPRO, AUROC, Evaluator  # type: ignore[import-not-found]
from anomalib.models import Padim  # type: ignore[import-not-found]
from anomalib.pre_processing import PreProcessor  # type: ignore[import-not-found]
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Resize
from usage import JobUsage  # type: ignore[import-not-found]


def main(task: Path, report: Path) -> None:
    """Fit, write and evaluate as a description says, and report."""
    told = json.loads(task.read_text())
    warnings.filterwarnings("ignore")
    torch.manual_seed(told["seed"])
    torch.set_num_threads(told["threads"])
    usage = JobUsage(told["started"])
    module = build(told)
    data = MVTecAD(
        root=told["folder"] + "/data",
        category=told["category"],
        train_batch_size=told["batch_size"],
        eval_batch_size=told["batch_size"],
        num_workers=told["num_workers"],
    )
    engine = Engine(
        default_root_dir=told["folder"] + "/anomalib",
        accelerator="gpu" if told["device"] == "cuda" else "cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,  # what validation is for, a threshold, is no part of the job
    )
    engine.fit(module, datamodule=data)
    usage.fitted()
    metrics = engine.test(module, datamodule=data, verbose=False)[0]
    found = {
        **usage.report(),
        "version": version("anomalib"),
        "gpu_bytes": torch.cuda.max_memory_allocated() if told["device"] == "cuda" else None,
        "state_bytes": sum(buffer.nbytes for buffer in module.model.gaussian.buffers()),
        "file_bytes": os.path.getsize(engine.best_model_path),
        "metrics": {
            "image/auroc": float(metrics["image_AUROC"]),
            "pixel/auroc": float(metrics["pixel_AUROC"]),
            "pixel/pro": float(metrics["pixel_AUPRO"]),
        },
    }
    found |= latencies(module, told)
    report.write_text(json.dumps(found))


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


def build(told: dict[str, Any]) -> Any:
    """The model, with the weights and channels that are given, and none of the extras."""
    resize = told["resize"]
    shape = [resize, resize] if isinstance(resize, int) else resize
    steps = [
        *([Resize(shape, antialias=True)] if resize else []),
        *([CenterCrop(told["image_size"])] if told["crop"] else []),
        Normalize(told["mean"], told["std"]),
    ]
    image = ["pred_score", "gt_label"]
    pixel = ["anomaly_map", "gt_mask"]
    module = UnitPadim(
        backbone=told["backbone"],
        layers=told["layers"],
        pre_trained=False,  # no hub is asked
        n_features=len(told["channels"]),
        pre_processor=PreProcessor(Compose(steps)),
        post_processor=False,
        evaluator=Evaluator(
            test_metrics=[
                AUROC(fields=image, prefix="image_"),
                AUROC(fields=pixel, prefix="pixel_"),
                AUPRO(fields=pixel, prefix="pixel_"),
            ]
        ),
        visualizer=False,
    )
    network = module.model.feature_extractor.feature_extractor
    given = torch.load(told["folder"] + "/backbone.pth", map_location="cpu", weights_only=True)
    known = network.state_dict().keys()
    # What is given ends behind the last layer; the network may have more, which nothing is read of.
    network.load_state_dict({key: given[key] for key in known if key in given}, strict=False)
    black = steps[-1](torch.zeros(1, 3, *told["image_size"]))
    means = [float(maps.mean()) for maps in module.model.feature_extractor(black).values()]
    torch.testing.assert_close(means, told["means"], rtol=1e-3, atol=1e-4)
    module.model.idx.copy_(torch.tensor(told["channels"]))
    return module


def latencies(module: Any, told: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds for the distances of one image, its feature maps at hand, and for its score."""
    device = torch.device(told["device"])
    model = module.to(device).eval().model
    normalize = module.pre_processor.transform.transforms[-1]
    image = torch.rand(1, 3, *told["image_size"], device=device)
    features = model.feature_extractor(normalize(image))
    stats = [model.gaussian.mean, model.gaussian.inv_covariance]

    def distances() -> None:
        embedding = model.generate_embedding(features)
        model.anomaly_map_generator.compute_distance(embedding, stats)

    def score() -> None:
        model(normalize(image))

    with torch.inference_mode():
        found: dict[str, list[float]] = {"distances_s": [], "score_s": []}
        for i in range(-1, told["latencies"]):
            for name, run in (("distances_s", distances), ("score_s", score)):
                seconds = clock(run, device)
                if i >= 0:
                    found[name].append(seconds)
    return found


def clock(run: Callable[[], None], device: torch.device) -> float:
    """Seconds that a function takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
