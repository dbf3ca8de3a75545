"""The same job by another implementation, in an environment of its own."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning import seed_everything
from torch import Tensor

from datamodules import LabelledImages, read_image, read_mask
from experiments.benchmark.figures import Figure, ratios
from experiments.benchmark.job import run_described, run_job
from experiments.benchmark.subject import Subject
from padim import Backbone
from padim.weights import create_network, read_weights

log = logging.getLogger(__name__)

DRIVERS = {"anomalib": Path(__file__).with_name("drivers") / "anomalib_driver.py"}

LATENCIES = 50
"""How often distances and scores of one image are timed in each job."""

PREPARED = ("resize", "crop", "batch_size", "num_workers")
"""Keys of the data that hold for the images that are written for both."""

FIGURES = {
    "job: fit, save, evaluate": ("job_s", "s", 1.0),
    "job, processor time": ("cpu_s", "s", 1.0),
    "fit": ("fit_s", "s", 1.0),
    "save + evaluate": ("test_s", "s", 1.0),
    "start of the program": ("start_s", "s", 1.0),
    "peak memory": ("peak_bytes", "MB", 1e-6),
    "peak memory beyond packages": ("added_bytes", "MB", 1e-6),
    "that of the fit": ("fit_bytes", "MB", 1e-6),
    "peak memory, GPU": ("gpu_bytes", "MB", 1e-6),
    "state": ("state_bytes", "MB", 1e-6),
    "model file": ("file_bytes", "MB", 1e-6),
    "distances, 1 image": ("distances_s", "ms", 1e3),
    "score, 1 image": ("score_s", "ms", 1e3),
}
"""What is told of both: its entry in their reports, and its unit."""

METRICS = {"image AUROC": "image/auroc", "pixel AUROC": "pixel/auroc", "PRO": "pixel/pro"}

NOTES = (
    "The same images, weights, layers, channels, size and batches, the same number of decoding"
    " workers; runs in turn, each in a process of its own. Both write their model, and neither"
    " draws, logs or makes a threshold.",
    "padim evaluates image AUROC, AP and F1, and pixel AUROC, AP, F1 and PRO; anomalib image AUROC,"
    " pixel AUROC and PRO, all exact. padim resizes bicubically, anomalib bilinearly, images and"
    " maps alike; anomalib adds 1e-5 to eps = 0.01.",
    "Peaks are of the process after the job, its decoding workers apart. Distances: feature maps at"
    " hand, to a map of the finest grid. Score: from pixels to anomaly map.",
    "anomalib runs an EfficientNet to its end, behind the last layer used. Its scores are divided"
    " by 1000: its AUROC takes those above 1 for logits.",
    "anomalib keeps every embedding until the end of the fit; it takes no further images later,"
    " shares no pass among the jobs of a sweep, and has no threshold from normal images.",
)


@dataclass(frozen=True)
class Comparison:
    """A figure of this project and of the peer.

    Args:
        images: what the job was done on.
        version: of the peer.
        ours: measured in turn with theirs.
        theirs: of the same unit.
        quotient: theirs over ours, the median of all rounds; None where it says nothing.
    """

    images: str
    version: str
    ours: Figure
    theirs: Figure
    quotient: float | None

    @property
    def name(self) -> str:
        """What is compared."""
        return self.ours.name

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "images": self.images,
            "name": self.name,
            "unit": self.ours.unit,
            "version": self.version,
            "ours": self.ours.json(),
            "theirs": self.theirs.json(),
            "quotient": self.quotient,
        }


def compare(config: DictConfig) -> Iterator[Comparison]:
    """The whole job by both, in turn, for each size of the images.

    Raises:
        ValueError: no such peer, it is not installed, or it cannot do this job.
        ChildProcessError: a job fails.
    """
    if config.peer not in DRIVERS:
        raise ValueError(f"peer must be one of {', '.join(DRIVERS)}, got {config.peer}")
    python = Path(config.peer_python)
    if not python.exists():
        raise ValueError(f"{config.peer} is not installed for {python}: make benchmark-peers")
    subject = Subject(config)
    described = _describe(subject)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    command = [str(python), str(DRIVERS[config.peer])]
    for size in config.peer_sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_images(subject.data, folder / "data" / "images", size)
            torch.save(original_weights(config.seed, subject.backbone), folder / "backbone.pth")
            here = {"_target_": "datamodules.MVTec", "root": f"{name}/data", "category": "images"}
            data = {key: plain["data"][key] for key in PREPARED} | here
            common = {"folder": name, "latencies": LATENCIES}
            ours, theirs = [], []
            for i in range(config.repeats):
                log.info("Measuring %s, round %d of %d", config.peer, i + 1, config.repeats)
                ours.append(run_job(config, data=data, evaluate=True, images=None, **common))
                theirs.append(run_described(command, described | common))
        train, test = len(subject.data.train_paths), len(subject.data.test_samples)
        images = f"{train} + {test}, {f'{size} px' if size else 'as they are'}"
        yield from _comparisons(images, ours, theirs)


def original_weights(seed: int, backbone: Backbone) -> dict[str, Tensor]:
    """A backbone's weights as timm has them, before normalisations were folded into them."""
    seed_everything(seed, verbose=False)  # of random ones
    network = create_network(backbone.name, backbone.weights == "hub", backbone.image_size)
    if backbone.weights in ("hub", "random"):
        return network.state_dict()
    return read_weights(backbone.name, str(backbone.weights), list(network.state_dict()))


def write_images(data: LabelledImages, folder: Path, size: int | None) -> None:
    """Write the images of a data set as one category in MVTec AD's layout.

    Anomalous images of which no mask is known are left out.

    Args:
        data: whose training images may repeat.
        folder: to write to.
        size: side in pixels to which images and masks are brought; None: as they are.
    """

    def save(pixels: np.ndarray, path: Path, resample: Image.Resampling) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        (image.resize((size, size), resample) if size else image).save(path, compress_level=1)

    def copy(path: Path, to: Path) -> None:
        save(read_image(path).permute(1, 2, 0).numpy(), to, Image.Resampling.BICUBIC)

    for i, path in enumerate(data.train_paths):
        copy(path, folder / "train" / "good" / f"{i:05}.png")
    for i, sample in enumerate(data.test_samples):
        if sample.label and not sample.masks:
            continue
        copy(sample.path, folder / "test" / sample.defect / f"{i:05}.png")
        if sample.label:
            mask = torch.stack([read_mask(path) for path in sample.masks]).any(dim=0)
            to = folder / "ground_truth" / sample.defect / f"{i:05}_mask.png"
            save(mask.numpy().astype(np.uint8) * 255, to, Image.Resampling.NEAREST)


def _describe(subject: Subject) -> dict[str, Any]:
    """The job in plain values for a driver.

    Raises:
        ValueError: it has what no driver knows.
    """
    config, backbone, data = subject.config, subject.backbone, subject.data
    model = subject.new_model()
    plain = (
        ("reduction=random or none", model.projection is None and not model.reduction.learns),
        ("gaussian.shrinkage=0", model.gaussian.shrinkage == 0),
        ("gaussian.ensemble=null", model.gaussian.ensemble is None),
        ("backbone.patch_pooling=1", backbone.patch_pooling == 1),
        ("backbone.bf16=false", not backbone.bf16),
        ("data.resize_mode=stretch", config.data.get("resize_mode", "stretch") == "stretch"),
        ("data.roi=null", not config.data.get("roi")),
    )
    if missing := [name for name, holds in plain if not holds]:
        raise ValueError(f"{config.peer} has none of this; set {', '.join(missing)}")
    starts = np.cumsum([0] + [layer.channels for layer in backbone.layers[:-1]]).tolist()
    channels = [
        start + int(channel)
        for start, chosen in zip(starts, model.channels, strict=True)
        for channel in chosen
    ]
    black = torch.zeros(1, 3, *data.image_size, dtype=torch.uint8)
    return {
        "category": "images",
        "backbone": backbone.name,
        "layers": [layer.name for layer in backbone.layers],
        "channels": channels,
        "means": [float(maps.mean()) for maps in backbone(black)],  # by which weights are checked
        "mean": (backbone.mean / 255).flatten().tolist(),
        "std": (backbone.std / 255).flatten().tolist(),
        "resize": data.preprocessing.resize,
        "crop": data.preprocessing.crop,
        "image_size": data.image_size,
        "batch_size": data.batch_size,
        "num_workers": data.num_workers,
        "device": config.device,
        "threads": torch.get_num_threads(),
        "seed": config.seed,
    }


def _comparisons(
    images: str, ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> Iterator[Comparison]:
    """The figures of the reports of both, one a round."""
    version = theirs[0]["version"]
    for name, (key, unit, scale) in FIGURES.items():
        if ours[0][key] is None:
            continue
        both = [[scale * _middle(report[key]) for report in reports] for reports in (ours, theirs)]
        mine, other = (Figure("peer", name, unit, values) for values in both)
        yield Comparison(images, version, mine, other, median(ratios(both[1], both[0])))
    for name, key in METRICS.items():
        both = [[100 * report["metrics"][key] for report in reports] for reports in (ours, theirs)]
        mine, other = (Figure("peer", name, "%", values) for values in both)
        yield Comparison(images, version, mine, other, None)


def _middle(value: float | list[float]) -> float:
    return median(value) if isinstance(value, list) else value
