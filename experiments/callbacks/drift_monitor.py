"""Drift of new images from the distribution of the fit, while they are predicted."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules import ImageError
from experiments.drawing.pictures import Scale, draw
from experiments.files import write_text
from experiments.scoring.verdicts import NOT_CALIBRATED, Verdicts
from padim import LitPaDiM, PaDiM, level_maps
from padim.calibration import p_value
from padim.drift import mean_as_image, scores_differ
from padim.sample import fingerprints

TESTS = 3
"""Each spends its part of the false-alarm rate (Bonferroni)."""

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
        prediction, known = self.model.score(embedding), self.verdicts.calibration
        assert known is not None
        p_values = {
            "scores": scores_differ(known.scores, torch.cat(self._scores)),
            "highest of the mean": float(known.p_value(prediction.scores)[0]),
            "whole of the mean": float(p_value(known.means, prediction.maps.mean(dim=(1, 2)))[0]),
        }
        p = min(1.0, TESTS * min(p_values.values()))
        drift = p <= self.rate
        found = {"drift": drift, "p": p, "p_values": p_values, "images": total, "normal": normal}
        write_text(folder / "drift.json", json.dumps(found, indent=2) + "\n")
        anomaly_map = prediction.maps[0]
        levels = {name: one[0].cpu() for name, one in level_maps(self.model, embedding).items()}
        title = f"mean of {k} images, stretched: p {p:.2g}"
        draw(
            image[..., 0].round().byte().movedim(0, -1).cpu().numpy(),
            anomaly_map.cpu().numpy(),
            # By the threshold of images, of which drift keeps short, all would be dark.
            Scale(float(anomaly_map.min()), float(max(anomaly_map.max(), known.peaks.median()))),
            title,
            threshold=self.verdicts.pixel_threshold,
            levels={name: one.numpy() for name, one in levels.items()},
        ).save(folder / "drift.png")
        each = ", ".join(f"{name} {value:.2g}" for name, value in p_values.items())
        log.log(
            logging.WARNING if drift else logging.INFO,
            "%s: p %.2g (%s) at a false-alarm rate of %g; drift.png shows where",
            *("Drift" if drift else "No drift", p, each, self.rate),
        )
        return drift
