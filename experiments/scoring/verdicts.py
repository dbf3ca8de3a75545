"""Verdicts: the p-value of a score, normal or anomalous, and the regions that are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from experiments.drawing.pictures import Scale
from padim import Calibration, PaDiM, Region, find_regions

NORMAL, ANOMALOUS = "normal", "anomalous"

NOT_CALIBRATED = (
    "the model is not calibrated; fit it again, use padim calibrate, or give threshold.score=NUMBER"
)


class Scored(NamedTuple):
    """The outcome of an image or of a frame.

    Attributes:
        path: of the image; see `frame_path` for frames.
        score: higher is more anomalous.
        p_value: share of normal images that score as high; None if the model is not calibrated.
        verdict: `NORMAL` or `ANOMALOUS`; None if there is no threshold.
        regions: in pixels of the original, the highest peak first; None if there is no threshold.
        size: (H, W) of the original.
    """

    path: str
    score: float
    p_value: float | None
    verdict: str | None
    regions: list[Region] | None
    size: tuple[int, int]

    def __str__(self) -> str:
        verdict = "" if self.verdict is None else f"{self.verdict:<9}  "
        p = "" if self.p_value is None else f"p {self.p_value:<7.3g}  "
        return f"{verdict}{p}score {self.score:<7.4g}  {self.path}"

    @property
    def label(self) -> str:
        """The text on a frame."""
        return self._label("")

    @property
    def title(self) -> str:
        """The line above a picture."""
        p = "" if self.p_value is None else f", p {self.p_value:.2g}"
        return f"{Path(self.path).name}, {self._label(p)}"

    def _label(self, p: str) -> str:
        verdict = "" if self.verdict is None else f": {self.verdict}"
        return f"score {self.score:.3g}{p}{verdict}"


@dataclass(frozen=True)
class Verdicts:
    """Thresholds, and what they make of scores; see `of`.

    Args:
        threshold: lowest anomalous score of an image; None if there is none.
        pixel_threshold: the same of a pixel of its map, which then is in a region.
        extent: lowest score in a region (see `anomalous_pixels`).
        rate: share of normal images that are called anomalous; None if it is not known.
        calibration: gives p-values; None if the model has none.
        source: what the threshold is, in words, where it is neither given nor of a rate.
    """

    threshold: float | None
    pixel_threshold: float | None
    extent: float | None
    rate: float | None
    calibration: Calibration | None
    source: str | None = None

    @classmethod
    def of(
        cls, model: PaDiM, false_alarm_rate: float | None = None, score: float | None = None
    ) -> "Verdicts":
        """By a fitted model, calibrated or not.

        Args:
            model: has the calibration, if any.
            false_alarm_rate: wanted; None for the thresholds that the calibration has fixed, or
                else its own rate.
            score: the threshold of images and pixels, in place of any other.

        Raises:
            ValueError: the calibration cannot promise the rate, or there is none.
        """
        rate = false_alarm_rate
        calibration = model.calibration
        known = calibration if calibration and calibration.rate else None
        if rate is not None and not known:
            raise ValueError(f"threshold.false_alarm_rate={rate}: {NOT_CALIBRATED}")
        if score is not None or calibration is None or calibration.thresholds is None:
            return cls(score, score, score, None, known)
        source = None
        if rate is None and calibration.fixed:
            (image, pixel), source = calibration.fixed, calibration.source
        else:
            rate = calibration.rate if rate is None else rate
            assert rate is not None
            image, pixel = calibration.threshold(rate), calibration.pixel_threshold(rate)
        return cls(image, pixel, min(calibration.extent_threshold(), pixel), rate, known, source)

    def __str__(self) -> str:
        if self.threshold is None:
            return f"Scores without verdicts: {NOT_CALIBRATED}"
        why = "" if self.source is None else f", {self.source}"
        if self.rate is not None:
            why = f", as at most {100 * self.rate:.3g} % of normal images do"
        return f"Anomalous is what scores {self.threshold:.4g} or more{why}"

    @property
    def scale(self) -> Scale | None:
        """Colours that a threshold sets, so that pictures of any day compare; None without.

        Scores up to half the threshold are dark, those twice as high are bright.
        """
        limit = self.pixel_threshold
        return None if limit is None else Scale(limit / 2, 2 * limit)

    def judge(self, batch: dict[str, Any], scores: Tensor, maps: np.ndarray) -> list[Scored]:
        """The outcome of each image of a batch, which has `path`, `size` and `window`.

        Args:
            batch: as of `ImageFiles`.
            scores: (B,).
            maps: (B, H, W).
        """
        p_values: list[float | None] = [None] * len(scores)
        if self.calibration:
            p_values = self.calibration.p_value(scores).tolist()
        sizes, windows = batch["size"].tolist(), batch["window"].tolist()
        return [
            Scored(path, score, p_value, self._verdict(score), regions, (size[0], size[1]))
            for path, score, p_value, regions, size in zip(
                batch["path"],
                scores.tolist(),
                p_values,
                map(self._regions, maps, windows, sizes),
                sizes,
                strict=True,
            )
        ]

    def _verdict(self, score: float) -> str | None:
        if self.threshold is None:
            return None
        return NORMAL if score < self.threshold else ANOMALOUS  # NaN, too, is not normal

    def _regions(self, anomaly_map: np.ndarray, window: Any, size: Any) -> list[Region] | None:
        if self.pixel_threshold is None:
            return None
        return find_regions(anomaly_map, self.pixel_threshold, window, size, self.extent)
