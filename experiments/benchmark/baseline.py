"""The same job by another implementation, in an environment of its own."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import seed_everything
from torch import Tensor

from datamodules import MVTecLayout
from experiments.benchmark.command import PACKAGES, Usage, run_command, run_fit
from experiments.benchmark.parts import Fixture, Measurement
from padim.weights import create_network, read_weights

log = logging.getLogger(__name__)

DRIVERS = {"anomalib": Path(__file__).with_name("anomalib_driver.py")}

LATENCIES = 50
"""How often distances and scores of one image are timed in each round."""

MEASURED = {
    "fit, save, evaluate": ("s", 1.0),
    "start of the program alone": ("s", 1.0),
    "processor time": ("s", 1.0),
    "peak memory beyond packages": ("MB", 1e-6),
    "cost/fit_s": ("s", 1.0),
    "cost/state_gb": ("MB", 1e3),
    "model file": ("MB", 1e-6),
    "distances": ("ms", 1.0),
    "score": ("ms", 1.0),
    "image/auroc": ("%", 1e2),
    "pixel/auroc": ("%", 1e2),
    "pixel/pro": ("%", 1e2),
}
"""Entries of both reports that are shown, the unit, and how much of it one of the entry's is."""

NOTE = (
    "Beside a baseline: the same images, weights, layers, channels, size, batches and number of"
    " decoding workers; commands in turn. Both write their model, and neither draws, logs or makes"
    " a threshold. Distances and score are of one image. padim evaluates AP and F1 beyond what"
    " anomalib does; it resizes bicubically, anomalib bilinearly, images and maps alike. anomalib"
    " adds 1e-5 to eps = 0.01, and runs an EfficientNet beyond the last layer used. Its scores are"
    " divided by 1000: its AUROC takes those above 1 for logits."
)


def compare(fixture: Fixture) -> Iterator[Measurement]:
    """Do the whole job by both, in turn, for each size of the images.

    Raises:
        ValueError: no such baseline, it is not installed, or it cannot do this job.
        ChildProcessError: a job fails.
    """
    config, folder = fixture.config, fixture.folder
    if config.baseline not in DRIVERS:
        raise ValueError(f"baseline must be one of {', '.join(DRIVERS)}, got {config.baseline}")
    python = Path(config.baseline_python)
    if not python.exists():
        remedy = "make benchmark-baseline"
        raise ValueError(f"{config.baseline} is not installed for {python}: {remedy}")
    task = _describe(fixture)
    torch.save(_original_weights(fixture), folder / "backbone.pth")
    driver = (str(python), str(DRIVERS[config.baseline]))
    for size in config.baseline_sizes:
        images = resize(fixture.data.folder, folder / str(size), size)
        (folder / "task.json").write_text(
            json.dumps({**task, "images": str(images)}), encoding="utf-8"
        )
        reports: dict[str, list[dict[str, float]]] = {"padim": [], config.baseline: []}
        for i in range(config.repeats):
            log.info("Measuring %s, round %d of %d", config.baseline, i + 1, config.repeats)
            reports["padim"].append(_run_own(fixture, images))
            reports[config.baseline].append(_run_driver(driver, folder))
        part = f"{config.baseline}, {f'{size} px' if size else 'images as they are'}"
        for name, (unit, scale) in MEASURED.items():
            for of, rounds in reports.items():
                yield Measurement(part, name, unit, [scale * one[name] for one in rounds], of)


def resize(images: Path, folder: Path, size: int | None) -> Path:
    """Copy a category's images and masks with a side of `size` pixels; None: take it as it is."""
    if size is None:
        return images.absolute()
    for path in images.glob("*/*/*"):
        is_mask = "ground_truth" in path.relative_to(images).parts
        copy = (folder / path.relative_to(images)).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        filtering = Image.Resampling.NEAREST if is_mask else Image.Resampling.BICUBIC
        with Image.open(path) as image:
            image.resize((size, size), filtering).save(copy, compress_level=1)
    return folder


def _run_own(fixture: Fixture, images: Path) -> dict[str, float]:
    folder = fixture.folder / "own"
    keys = (f"data.root='{images.parent}'", f"data.category='{images.name}'", "pictures=0")
    start = run_command(PACKAGES)
    job = run_fit(fixture.config, folder, *keys, data="mvtec", threshold="none")
    latencies = fixture.time_score(1, LATENCIES)
    report: dict[str, float] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    report |= {name: median(times) for name, times in latencies.items()}
    return report | _costs(start, job) | {"model file": (folder / "model.ckpt").stat().st_size}


def _run_driver(driver: tuple[str, str], folder: Path) -> dict[str, float]:
    start, job, _ = (run_command([*driver, do, str(folder)]) for do in ("import", "job", "score"))
    done, latencies = (
        json.loads((folder / f"{do}.json").read_text(encoding="utf-8")) for do in ("job", "score")
    )
    return {**done, **latencies, **_costs(start, job)}


def _costs(start: Usage, job: Usage) -> dict[str, float]:
    """What a job takes, and of it the start of its program."""
    return {
        "fit, save, evaluate": job.wall,
        "start of the program alone": start.wall,
        "processor time": job.cpu,
        "peak memory beyond packages": job.peak - start.peak,
    }


def _original_weights(fixture: Fixture) -> dict[str, Tensor]:
    """The backbone's weights as timm has them, before normalisations were folded into them."""
    name, weights = fixture.config.backbone.name, str(fixture.config.backbone.weights)
    seed_everything(fixture.config.seed, verbose=False)  # of random ones
    network = create_network(name, weights == "hub", fixture.data.image_size)
    if weights in ("hub", "random"):
        return network.state_dict()
    return read_weights(name, weights, list(network.state_dict()))


def _describe(fixture: Fixture) -> dict[str, Any]:
    """The job in plain values for a driver.

    Raises:
        ValueError: it has what no driver knows.
    """
    config, data, model = fixture.config, fixture.data, fixture.model
    backbone, preprocessing = model.backbone, data.preprocessing
    plain = {
        "data=mvtec": isinstance(data, MVTecLayout),
        "reduction=random or none": model.projection is None and not model.reduction.learns,
        "gaussian.shrinkage=0": model.gaussian.shrinkage == 0,
        "gaussian.ensemble=null": model.gaussian.ensemble is None,
        "backbone.patch_pooling=1": backbone.patch_pooling == 1,
        "backbone.bf16=false": not backbone.bf16,
        "preprocessing.resize_mode=stretch": preprocessing.resize_mode == "stretch",
        "preprocessing.roi=null": not preprocessing.roi,
    }
    if missing := [name for name, holds in plain.items() if not holds]:
        raise ValueError(f"{config.baseline} has none of this; set {', '.join(missing)}")
    starts = np.cumsum([0] + [layer.channels for layer in backbone.layers[:-1]]).tolist()
    pairs = zip(starts, model.channels, strict=True)
    black = torch.zeros(1, 3, *data.image_size, dtype=torch.uint8, device=config.device)
    return {
        "backbone": backbone.name,
        "layers": [layer.name for layer in backbone.layers],
        "channels": [start + int(channel) for start, chosen in pairs for channel in chosen],
        "means": [float(maps.mean()) for maps in backbone(black)],  # by which weights are checked
        "mean": (backbone.mean / 255).flatten().tolist(),
        "std": (backbone.std / 255).flatten().tolist(),
        "resize": preprocessing.resize,
        "crop": preprocessing.crop,
        "image_size": data.image_size,
        "batch_size": data.loading.batch_size,
        "num_workers": data.loading.workers,
        "device": config.device,
        "threads": torch.get_num_threads(),
        "seed": config.seed,
        "latencies": LATENCIES,
    }
