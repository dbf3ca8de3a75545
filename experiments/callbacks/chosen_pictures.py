"""Pictures of the test images worth a look, drawn once for all callbacks that show them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pytorch_lightning import Trainer

from experiments.callbacks.recorder import TestRecorder
from experiments.drawing.pictures import draw
from experiments.scoring.gallery import KINDS, Drawn, choose


def chosen_pictures(trainer: Trainer, metrics: Mapping[str, float]) -> Iterator[Drawn]:
    """Draw the images that `choose` gives of the test that a trainer has just run.

    They are kept, so that all callbacks have the same without drawing them again. The thresholds
    are the model's own, or else those of the best F1.
    """
    recorder = TestRecorder.of(trainer)
    if recorder.drawn is not None or not recorder.pictures:
        yield from recorder.drawn or []
        return
    drawn = []
    image_threshold, pixel_threshold = (
        metrics.get(f"threshold/{group}", metrics.get(f"{group}/f1_max_threshold"))
        for group in ("image", "pixel")
    )
    scale = recorder.scale
    picture_of = getattr(trainer.datamodule, "picture", None)  # type: ignore[attr-defined]
    for choice in choose(recorder.columns, recorder.kept, image_threshold, recorder.pictures):
        kept, path = recorder.kept[choice.index], Path(choice.path)
        pixels = kept.image
        # A frame of a video is read anew only where it has to be: all frames before it are decoded.
        if picture_of and (pixels is None or kept.window is not None):
            pixels = picture_of(choice.path)
        if pixels is None:
            continue
        image, anomaly_map = pixels.permute(1, 2, 0).numpy(), kept.placed(kept.anomaly_map)
        mask = None if kept.mask is None else kept.mask.numpy()
        levels = {name: kept.placed(part) for name, part in kept.levels.items()}
        title = f"{KINDS[choice.kind]} {choice.rank}: {path.parent.name}/{path.name}"
        title = f"{title}, score {choice.score:.3g}"
        hidden = None if kept.ignored is None else kept.placed(kept.ignored.float()) > 0.5
        picture = draw(
            *(image, anomaly_map, scale, title, mask, pixel_threshold, levels), ignored=hidden
        )
        found = None if pixel_threshold is None else anomaly_map >= pixel_threshold
        drawn.append(Drawn(choice, picture, image, anomaly_map, mask, levels, found))
        yield drawn[-1]
    recorder.drawn = drawn
