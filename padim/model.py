"""PaDiM: patch distribution modelling for anomaly detection and localisation."""

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from padim.anomaly_map import AnomalyMap
from padim.backbone import Backbone
from padim.gaussian import AUTO, PatchGaussian
from padim.image_score import ImageScore
from padim.levels import Levels
from padim.reduction import RandomChannels, Reduction, reduction_from_config
from padim.shrinkage import EmbeddingSample, ShrinkageChoice, choose_shrinkage
from padim.statistics import PatchStatistics

SAMPLE_SIZE = 32
"""Images from which shrinkage is chosen: within 0.02 of what all training images give."""

log = logging.getLogger(__name__)


class Prediction(NamedTuple):
    """Image scores (B,) and anomaly maps (B, H, W); higher is more anomalous."""

    scores: Tensor
    maps: Tensor


class PaDiM(nn.Module):
    """Patch distribution modelling (Defard et al., arXiv 2011.08785), with exact levels.

    ```python
    model = PaDiM(Backbone("tf_efficientnet_lite0"), RandomChannels(d=100))
    for images in normal_images:  # uint8 (B, 3, H, W)
        model.update(images)
    model.finalize()
    scores, maps = model(images)
    ```

    The state dict holds the backbone's weights, the channels and the statistics. The Gaussian
    follows from them when a state dict is loaded; more images may be added at any time.

    Args:
        backbone: the frozen network; it also fixes the size of the images.
        reduction: which channels form the embedding; 100 at random by default.
        gaussian: the Gaussian of each position.
        anomaly_map: resize and smoothing of the distances.
        image_score: one number of a map; its maximum by default.
    """

    def __init__(
        self,
        backbone: Backbone,
        reduction: Reduction | None = None,
        gaussian: PatchGaussian | None = None,
        anomaly_map: AnomalyMap | None = None,
        image_score: ImageScore | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reduction = reduction or RandomChannels()
        layers = backbone.layers
        chosen = self.reduction.channels(sum(layer.channels for layer in layers))
        start, counts = 0, []
        for i, layer in enumerate(layers):
            inside = chosen[(chosen >= start) & (chosen < start + layer.channels)] - start
            self.register_buffer(f"channels_{i}", inside)
            counts.append(len(inside))
            start += layer.channels
        self.levels = Levels([layer.grid for layer in layers], counts)
        self.statistics = PatchStatistics(self.levels)
        self.gaussian = gaussian or PatchGaussian()
        self.sample = EmbeddingSample(SAMPLE_SIZE) if self.gaussian.shrinkage == AUTO else None
        self.shrinkage_choice: ShrinkageChoice | None = None
        self.anomaly_map = anomaly_map or AnomalyMap()
        self.image_score = image_score or ImageScore()
        self.anomaly_map.prepare(self.levels.grids[0], backbone.image_size)
        self.register_load_state_dict_post_hook(_finalize_loaded)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PaDiM":
        """Build the model that `config` describes, without weights: a state dict follows."""
        backbone = Backbone(**{**config["backbone"], "weights": None})
        backbone.weights = config["backbone"]["weights"]
        return cls(
            backbone,
            reduction_from_config(config["reduction"]),
            PatchGaussian(**config["gaussian"]),
            AnomalyMap(**config["map"]),
            ImageScore(**config.get("score", {})),
        )

    @property
    def config(self) -> dict[str, Any]:
        """Everything but the state dict, as plain values."""
        return {
            "backbone": self.backbone.config,
            "reduction": self.reduction.config,
            "gaussian": self.gaussian.config,
            "map": self.anomaly_map.config,
            "score": self.image_score.config,
        }

    def update(self, images: Tensor) -> None:
        """Add a batch of normal images, uint8 RGB (B, 3, H, W), to the statistics."""
        self.accumulate(self.backbone(images))

    @torch.no_grad()
    def accumulate(self, maps: list[Tensor]) -> None:
        """Add a batch whose feature maps are at hand, one (B, channels, height, width) a layer."""
        embedding = self.embed(maps)
        self.statistics.update(embedding)
        if self.sample:
            self.sample.update(embedding)

    def finalize(self) -> None:
        """Factor the covariances of all images seen; needed before the first prediction.

        Shrinkage that is "auto" is chosen first, from a sample of the images seen since the model
        was made or loaded.
        """
        if self.sample and self.sample.seen:
            self.shrinkage_choice = choose_shrinkage(
                self.statistics, self.sample.embedding, self.gaussian.eps
            )
            self.gaussian.amount.fill_(self.shrinkage_choice.amount)
        self.gaussian.fit(self.statistics)
        n, d = int(self.statistics.count), sum(self.levels.channels)
        if n == 1:
            log.warning(
                "fitted on 1 image: its covariance is 0, so distances are |x - mean| / sqrt(eps)"
            )
        elif n <= d and not self.gaussian.amount:
            log.info(
                "fitted on %d images in %d dimensions: the covariances have rank %d, the remaining"
                " directions are carried by eps = %g alone",
                *(n, d, n - 1, self.gaussian.eps),
            )

    @torch.no_grad()
    def forward(self, images: Tensor) -> Prediction:
        """Score uint8 RGB images (B, 3, H, W)."""
        return self.score(self.embed(self.backbone(images)))

    @torch.no_grad()
    def score(self, embedding: list[Tensor]) -> Prediction:
        """Score images whose embedding is at hand, one (G_l, d_l, B) tensor a level."""
        distance = self.gaussian(embedding)
        maps = self.anomaly_map(distance)
        return Prediction(self.image_score(distance, maps), maps)

    def embed(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps, one a layer, to the embedding: one (G_l, d_l, B) tensor a level."""
        # Channels are selected before anything is resized: no full-width map on the fine grid.
        chosen = [self.get_buffer(f"channels_{i}") for i in range(len(maps))]
        return self.levels.embed(
            [
                m if len(c) == m.shape[1] else m[:, c]  # twice as fast as index_select here
                for m, c in zip(maps, chosen, strict=True)
            ]
        )


def _finalize_loaded(model: nn.Module, _: Any) -> None:
    assert isinstance(model, PaDiM)
    if model.statistics.count > 0:
        model.gaussian.fit(model.statistics)
