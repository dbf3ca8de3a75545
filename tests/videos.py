"""Small videos, and ShanghaiTech Campus's layout made of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from pytorch_lightning import LightningModule, Trainer

from datamodules.stc import STC
from trees import data_module

SIZE = (32, 48)
"""(H, W) of all frames."""

TRAIN = {"01_001": 14, "01_002": 9, "01_003": 5, "02_001": 4}
TEST = {"01_0014": 12, "01_0015": 7}
"""Videos of `stc_tree` and their frames; each of `TEST` is anomalous from its middle on."""


def footage(count: int, seed: int = 0) -> np.ndarray:
    """Frames, uint8 (count, H, W, 3): a static scene, a figure that walks, a square that blinks."""
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.integers(60, 180, (4, 6, 3)), np.ones((8, 8, 1)))
    frames = np.repeat(scene[None], count, axis=0).astype(np.uint8)
    for number, frame in enumerate(frames):
        left = number % (SIZE[1] - 6)
        frame[16:28, left : left + 6] = 20
        frame[:8, :8] = 37 * number % 256
    return frames


def intrude(frames: np.ndarray) -> np.ndarray:
    """Put something bright into the second half of the frames; its masks, uint8 (count, H, W)."""
    masks = np.zeros(frames.shape[:3], np.uint8)
    for number in range(len(frames) // 2, len(frames)):
        masks[number, 8:16, 16 + number : 24 + number] = 1
    frames[masks > 0] = 250
    return masks


def write_video(
    path: Path,
    frames: np.ndarray,
    codec: str = "ffv1",
    pixels: str = "bgr0",
    b_frames: int = 0,
    rotation: int = 0,
) -> Path:
    """Encode frames, uint8 (N, H, W, 3); the default codec loses nothing.

    `rotation` tells players to turn them, in degrees counter-clockwise.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        stream.codec_context.gop_size = 12
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_frames(folder: Path, frames: np.ndarray, name: str = "{:03}.jpg") -> Path:
    """Save frames as image files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / name.format(number), quality=95, subsampling=0)
    return folder


def cut_off(path: Path, frames: int) -> None:
    """Drop what a video file holds after `frames` frames; its header promises them still."""
    with av.open(str(path)) as container:
        ends = [packet.pos for packet in container.demux(video=0)]
    path.write_bytes(path.read_bytes()[: ends[frames]])


def damage(path: Path, frame: int, share: float) -> None:
    """Overwrite what a video file holds of a frame, or a share of it from its end."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][frame]
        stop = packet.pos + packet.size
        start = stop - round(share * packet.size)
    content = bytearray(path.read_bytes())
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)


def stc_tree(root: Path) -> Path:
    """The videos of `TRAIN` and `TEST` with masks, as ShanghaiTech Campus has them."""
    for seed, (name, count) in enumerate(TRAIN.items()):
        write_video(root / "training" / "videos" / f"{name}.avi", footage(count, seed))
    for name, count in TEST.items():
        frames = footage(count)
        masks = intrude(frames)
        write_frames(root / "testing" / "frames" / name, frames)
        save_masks(root, name, masks)
    return root


def save_masks(root: Path, name: str, masks: np.ndarray) -> None:
    """Write pixel masks (frames, H, W), and the frame masks that follow from them."""
    for kind, array in (("pixel", masks), ("frame", masks.any(axis=(1, 2)).astype(np.uint8))):
        path = root / "testing" / f"test_{kind}_mask" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)


def stc(root: Path, scene: int = 1, **options: object) -> STC:
    """Its data module, with small batches of whole frames."""
    small = {"resize": SIZE, "batch_size": 4, "num_workers": 0}
    return data_module(STC, root, scene, **small | options)


def paths(loader: Iterable[dict[str, Any]]) -> list[str]:
    """Of all frames, in the order of the batches."""
    return [path for batch in loader for path in batch["path"]]


def seen_by_lightning(data: STC) -> list[str]:
    """The paths of all frames of an epoch."""

    class Watcher(LightningModule):
        def training_step(self, batch):
            seen.extend(batch["path"])

        def configure_optimizers(self):
            return None

    seen: list[str] = []
    trainer = Trainer(accelerator="cpu", max_epochs=1, barebones=True)
    trainer.fit(Watcher(), train_dataloaders=data.train_dataloader())
    return seen
