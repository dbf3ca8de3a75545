"""Drift of new images from the distribution of the fit, while they are predicted."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules import ImageError
from experiments.drawing.pictures import Scale, draw
from experiments.files import write_text
from experiments.scoring.verdicts import NOT_CALIBRATED, Verdicts
from padim import LitPaDiM, PaDiM, drift_p_values, level_maps, mean_as_image
from padim.sample import fingerprints

TESTS = 3
"""Of `drift_p_values`, each of which has its part of the false-alarm rate (Bonferroni)."""

log = logging.getLogger(__name__)


class DriftMonitor(Callback):
    """Collects scores, and the mean embedding and image of what is normal, as a trainer predicts.

    Args:
        model: fitted and calibrated.
        verdicts: say what is normal.
        rate: false-alarm rate of the test.

    Raises:
        ValueError: the model has too few scores of normal images for the rate.
    """

    def __init__(self, model: PaDiM, verdicts: Verdicts, rate: float) -> None:
        if verdicts.calibration is None:
            raise ValueError(f"drift={rate:g}: {NOT_CALIBRATED}")
        m = len(verdicts.calibration.means)
        if not m:
            raise ValueError(
                f"drift={rate:g}: the model is of version 0.1.0: calibrate it, or fit again"
            )
        if rate < TESTS / (m + 1):
            raise ValueError(
                f"drift={rate:g} takes scores of {round(TESTS / rate) - 1} normal images: the model"
                f" has {m}, from which {TESTS / (m + 1):.2g} can be promised"
            )
        self.model, self.verdicts, self.rate = model, verdicts, rate
        self._scores: list[Tensor] = []
        self._fitted = 0
        self._sums: list[Tensor] = []  # over all images, and over the normal ones
        self._counts = torch.zeros(2)
        self._embedding: list[Tensor] = []
        model.gaussian.register_forward_pre_hook(self._keep)

    def _keep(self, _: Any, inputs: tuple[list[Tensor]]) -> None:
        self._embedding = inputs[0]

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: int
    ) -> None:
        """Add a batch of `ImageFiles` or `VideoFrames`."""
        assert isinstance(pl_module, LitPaDiM)
        scores = outputs["scores"]
        if not len(scores):
            return
        self._scores.append(scores.cpu())
        self._fitted += int(torch.isin(fingerprints(batch["image"]), pl_module.fingerprints).sum())
        normal = scores < (self.verdicts.threshold or math.inf)
        weights = torch.stack([torch.ones_like(scores), normal.float()], dim=1)
        self._counts += weights.sum(dim=0).cpu()
        parts = [*self._embedding, batch["image"].movedim(0, -1).float()]
        sums = [(part @ weights).double() for part in parts]
        before = self._sums or [torch.zeros_like(one) for one in sums]
        self._sums = [a + b for a, b in zip(before, sums, strict=True)]

    def report(self, folder: Path) -> bool:
        """Test for drift, log the outcome, and write drift.json and drift.png.

        Raises:
            ImageError: there are fewer than two images.
            ValueError: an image is of the fit.
        """
        if self._fitted:
            raise ValueError(
                f"drift={self.rate:g}: {self._fitted} of these images are images of the fit, or"
                " copies, which look more normal than new ones"
            )
        total, normal = map(int, self._counts)
        if total < 2:
            raise ImageError(f"drift={self.rate:g} takes two images or more, got {total}")
        kind = int(2 * normal >= total)  # what few normal images have in common says little
        k = int(self._counts[kind])
        *mean, image = ((one[..., kind : kind + 1] / k).float() for one in self._sums)
        embedding = mean_as_image(self.model.statistics, mean, k)
        prediction = self.model.score(embedding)
        p_values = drift_p_values(self.model, torch.cat(self._scores), prediction)
        p = min(1.0, TESTS * min(p_values.values()))
        drift = p <= self.rate
        found = {"drift": drift, "p": p, "p_values": p_values, "images": total, "normal": normal}
        write_text(folder / "drift.json", json.dumps(found, indent=2) + "\n")
        levels = level_maps(self.model, embedding)
        title = f"mean of {k} images, stretched: p {p:.2g}"
        self._draw(title, image[..., 0], prediction.maps, levels).save(folder / "drift.png")
        each = ", ".join(f"{name} {value:.2g}" for name, value in p_values.items())
        log.log(
            logging.WARNING if drift else logging.INFO,
            "%s: p %.2g (%s) at a false-alarm rate of %g; drift.png shows where",
            *("Drift" if drift else "No drift", p, each, self.rate),
        )
        return drift

    def _draw(
        self, title: str, image: Tensor, maps: Tensor, levels: Mapping[str, Tensor]
    ) -> Image.Image:
        """The mean image (3, H, W) with its map (1, H, W), and what each level adds to that.

        By the threshold of images, of which drift keeps short, all of it would be dark.
        """
        assert self.verdicts.calibration is not None
        high = max(maps.max(), self.verdicts.calibration.peaks.median())
        return draw(
            image.round().byte().permute(1, 2, 0).cpu().numpy(),
            maps[0].cpu().numpy(),
            Scale(float(maps.min()), float(high)),
            title,
            threshold=self.verdicts.pixel_threshold,
            levels={name: part[0].cpu().numpy() for name, part in levels.items()},
        )
