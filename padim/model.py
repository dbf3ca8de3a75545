"""PaDiM: patch distribution modelling for anomaly detection and localisation."""

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from padim.anomaly_map import AnomalyMap
from padim.backbone import Backbone
from padim.calibration import Calibration
from padim.factorisation import joined, pooled_covariance
from padim.gaussian import AUTO, PatchGaussian
from padim.image_score import ImageScore
from padim.leave_one_out import leave_one_out
from padim.levels import Levels, seen_cells
from padim.neighbours import Neighbourhood
from padim.precision import full_precision
from padim.reduction import OURS, RandomChannels, Reduction, reduction_from_config
from padim.sample import EmbeddingSample
from padim.shrinkage import ShrinkageChoice, choose_shrinkage
from padim.statistics import PatchStatistics

SAMPLE_SIZE = 32
"""Images from which shrinkage is chosen: within 0.02 of what all training images give."""

LEAST_WEIGHT = 0.05
"""Share of a smoothed pixel's value that comes from what is not ignored, which it is divided by."""

SAMPLE_BYTES = 2**28
"""Most that the embeddings kept for the threshold take, unless the statistics take more."""

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
        reduction: what of the channels forms the embedding; 100 at random by default.
        gaussian: the Gaussian of each position.
        anomaly_map: resize and smoothing of the distances.
        image_score: one number of a map; its maximum by default.
        calibration: to be made from the training images; none by default.
        ignored: bool (H, W), pixels of every image that are not looked at; None for none. Positions
            that see nothing else have no Gaussian; the others' maps are smoothed without them.

    Raises:
        ValueError: the reduction does not fit the backbone or the Gaussian, or `ignored` is of
            another size or covers all.

    Attributes:
        channel_levels: levels of the channels kept.
        levels: of the embedding: the same, or with a projection all on the finest.
    """

    projection: Tensor | None
    ignored: Tensor | None
    statistics: PatchStatistics

    def __init__(
        self,
        backbone: Backbone,
        reduction: Reduction | None = None,
        gaussian: PatchGaussian | None = None,
        anomaly_map: AnomalyMap | None = None,
        image_score: ImageScore | None = None,
        calibration: Calibration | None = None,
        ignored: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.reduction = reduction or RandomChannels()
        self.gaussian = gaussian or PatchGaussian()
        self.calibration = calibration
        self.shrinkage_choice: ShrinkageChoice | None = None
        self.earlier: list[Calibration] = []
        self.anomaly_map = anomaly_map or AnomalyMap()
        self.image_score = image_score or ImageScore()
        total = sum(layer.channels for layer in backbone.layers)
        chosen = self.reduction.channels(total)
        for grid in self._grids():
            self.anomaly_map.prepare(grid, backbone.image_size)
        self._ignore(ignored)
        self._arrange(self._by_layer(chosen), self.reduction.projection(total))
        self.statistics = PatchStatistics(self.levels)
        one = sum(self.statistics.mean(level).nbytes for level in range(len(self.levels)))
        room = max(SAMPLE_BYTES, self.statistics.nbytes) // one
        size = max(
            SAMPLE_SIZE if self.gaussian.shrinkage == AUTO else 0,
            min(calibration.images, room) if calibration else 0,
        )
        self.sample = EmbeddingSample(size) if size else None
        nn.Module.register_load_state_dict_pre_hook(self, _arrange_loaded)
        nn.Module.register_load_state_dict_post_hook(self, _finalize_loaded)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PaDiM":
        """Build the model that `config` describes, without weights: a state dict follows."""
        backbone = Backbone(**{**config["backbone"], "weights": None})
        backbone.weights = config["backbone"]["weights"]
        calibration = config.get("calibration")
        return cls(
            backbone,
            reduction_from_config(config["reduction"]),
            PatchGaussian(**config["gaussian"]),
            AnomalyMap(**config["map"]),
            ImageScore(**config.get("score", {})),
            Calibration(**calibration) if calibration else None,
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
            "calibration": self.calibration.config if self.calibration else None,
        }

    def update(self, images: Tensor) -> None:
        """Add a batch of normal images, uint8 RGB (B, 3, H, W), to the statistics."""
        self.accumulate(self.backbone(images))

    @torch.no_grad()
    def accumulate(self, maps: list[Tensor], keys: Tensor | None = None) -> None:
        """Add a batch whose feature maps are at hand.

        Args:
            maps: one (B, channels, height, width) a layer.
            keys: (B,) pseudo-random numbers, as of `image_keys`, that say which images are sampled
                for shrinkage and calibration; by default those of the images' running numbers.
        """
        self.add(self.embed(maps), keys)

    def add(self, embedding: list[Tensor], keys: Tensor | None = None) -> None:
        """Add a batch whose embedding is at hand, one (G_l, d_l, B) tensor a level.

        Keys as of `accumulate`.
        """
        self.statistics.update(embedding)
        if self.sample:
            self.sample.update(embedding, keys)

    def finalize(self) -> None:
        """Factor the covariances and calibrate; needed before the first prediction."""
        self.choose()
        self.factor()
        self.calibrate()

    def choose(self) -> None:
        """Learn from the images seen what is not given.

        That is what a reduction learns from the statistics, once: more images seen later leave it
        as it is. Shrinkage that is "auto" is chosen from a sample of the images seen since the
        model was made or loaded.

        Raises:
            ValueError: there are several images, all alike.
        """
        if self.statistics.are_constant:
            raise ValueError(
                f"all {self.statistics.count} training images are alike, so any other would be"
                " anomalous: look at them, and at how they are prepared"
            )
        if self.reduction.learns and not self.reduced and self.statistics.count:
            self._learn()
        if self.gaussian.shrinkage == AUTO and self.sample and self.sample.seen:
            self.shrinkage_choice = choose_shrinkage(
                self.statistics,
                [x[..., :SAMPLE_SIZE] for x in self.sample.embedding],
                self.gaussian.eps,
            )
            self.gaussian.coefficient.fill_(self.shrinkage_choice.coefficient)

    def factor(self) -> None:
        """Factor the covariances of all images seen; see `PatchGaussian.fit`."""
        self.gaussian.fit(self.statistics)
        n, d = int(self.statistics.count), sum(self.levels.channels)
        if n == 1:
            log.warning(
                "fitted on 1 image: its covariance is 0, so distances are |x - mean| / sqrt(eps)"
            )
        elif n <= d and not self.gaussian.coefficient:
            log.info(
                "fitted on %d images in %d dimensions: the covariances have rank %d at most, the"
                " other directions are carried by eps = %g alone",
                *(n, d, n - 1, self.gaussian.eps),
            )

    def calibrate(self) -> None:
        """Score a sample of the images seen since the model was made or loaded, each left out.

        What a loaded model knows of the images before is kept beside (see `Calibration.merge`).
        """
        if self.calibration is None or self.sample is None or self.statistics.count < 2:
            return
        if not self.sample.seen:
            return
        images = self.calibration.images
        if self.sample.size < min(images, self.sample.seen):
            log.info(
                "the threshold is set by %d of %d images: embeddings of more take too much memory",
                *(self.sample.size, self.sample.seen),
            )
        sample = [x[..., :images] for x in self.sample.embedding]
        distances = leave_one_out(self.statistics, sample, self.gaussian)
        self.calibration.fit(distances, self._of_distances, self.sample.keys[:images], self.ignored)
        for earlier in self.earlier:
            self.calibration.merge(earlier.to(self.calibration.scores.device))
        self.calibration.warn_if_few()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Prediction:
        """Score uint8 RGB images (B, 3, H, W)."""
        return self.score(self.embed(self.backbone(images)))

    @torch.no_grad()
    def score(self, embedding: list[Tensor], ignored: Tensor | None = None) -> Prediction:
        """Score images whose embedding is at hand, one (G_l, d_l, B) tensor a level.

        `ignored`, bool (B, H, W), marks the pixels of each that are not looked at, those of every
        image among them; None for these alone.
        """
        return self._of_distances(self.gaussian(embedding), ignored)

    def _of_distances(self, distances: list[Tensor], ignored: Tensor | None = None) -> Prediction:
        maps = torch.stack([self.smoothed(d, ignored) for d in distances]).sum(dim=0)
        pixels = self.pixels if ignored is None else (~ignored).sum(dim=(1, 2))
        if ignored is not None or self.ignored is not None:
            distances = [d * self._seen(d.shape[1:], ignored)[0] for d in distances]
        return Prediction(self.image_score(distances, maps, pixels), maps)

    def smoothed(self, values: Tensor, ignored: Tensor | None = None) -> Tensor:
        """Values (B, grid height, grid width) as a map (B, H, W), 0 where pixels are ignored.

        `ignored` as of `score`.
        """
        hidden = self.ignored if ignored is None else ignored
        if hidden is None:
            whole: Tensor = self.anomaly_map(values)
            return whole
        seen, weight = self._seen(values.shape[1:], ignored)
        smooth: Tensor = self.anomaly_map(values * seen)
        return (smooth / weight).masked_fill(hidden, 0)

    def _seen(self, grid: Sequence[int], ignored: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cells of a grid that are looked at, 1 or 0, and what a pixel of the map takes of them."""
        if ignored is None:
            name = f"{grid[0]}_{grid[1]}"
            return self.get_buffer(f"seen_{name}"), self.get_buffer(f"weight_{name}")
        seen = seen_cells(~ignored, (grid[0], grid[1])).float()
        return seen, self.anomaly_map(seen).clamp(min=LEAST_WEIGHT)

    def embed(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps, one a layer, to the embedding: one (G_l, d_l, B) tensor a level."""
        # Channels are selected before anything is resized: no full-width map on the fine grid.
        embedding = self.channel_levels.embed(
            [
                m if len(c) == m.shape[1] else m[:, c]  # twice as fast as index_select here
                for m, c in zip(maps, self.channels, strict=True)
            ]
        )
        return self.project(embedding)

    @full_precision
    def project(self, embedding: list[Tensor]) -> list[Tensor]:
        """The embedding of all channels kept, to what the reduction makes of it."""
        if self.projection is None:
            return embedding
        matrices = self.matrices()
        y = torch.einsum("dk,gdb->gkb", matrices[0], embedding[0]).contiguous()
        for x, matrix in zip(embedding[1:], matrices[1:], strict=True):
            coarse = torch.einsum("dk,gdb->gkb", matrix, x)
            y.unflatten(0, (len(coarse), -1)).add_(coarse.unsqueeze(1))
        return [y, *(x.new_empty(len(x), 0, x.shape[2]) for x in embedding[1:])]

    def matrices(self) -> list[Tensor]:
        """The rows of the projection that belong to each level."""
        assert self.projection is not None
        return [self.projection[i] for i in self.channel_levels.indices]

    @property
    def channels(self) -> list[Tensor]:
        """For each layer, the sorted indices of its channels that are kept."""
        return [self.get_buffer(f"channels_{i}") for i in range(len(self.backbone.layers))]

    @property
    def reduced(self) -> bool:
        """Whether what is kept is less than all channels of all layers."""
        kept = sum(map(len, self.channels))
        total = sum(layer.channels for layer in self.backbone.layers)
        return self.projection is not None or kept < total

    def _grids(self) -> set[tuple[int, int]]:
        """Of all layers, and the one that is at least as fine as each."""
        heights, widths = zip(*(layer.grid for layer in self.backbone.layers), strict=True)
        return {*zip(heights, widths, strict=True), (max(heights), max(widths))}

    def _ignore(self, ignored: Tensor | None) -> None:
        """Set the pixels that are not looked at, and what the map takes of the others."""
        self.register_buffer("ignored", ignored)
        self.pixels = math.prod(self.backbone.image_size)
        if ignored is None:
            return
        if tuple(ignored.shape) != self.backbone.image_size or ignored.all():
            raise ValueError(
                f"ignored must be of {self.backbone.image_size} pixels, and leave some: got"
                f" {tuple(ignored.shape)}, of which {int(ignored.sum())} are ignored"
            )
        self.pixels = int((~ignored).sum())
        for grid in self._grids():
            for name, part in zip(("seen", "weight"), self._seen(grid, ignored[None]), strict=True):
                self.register_buffer(f"{name}_{grid[0]}_{grid[1]}", part[0], persistent=False)

    def _by_layer(self, channels: Tensor) -> list[Tensor]:
        """Indices into the channels of all layers, as indices into those of each."""
        parts, start = [], 0
        for layer in self.backbone.layers:
            inside = (channels >= start) & (channels < start + layer.channels)
            parts.append(channels[inside] - start)
            start += layer.channels
        return parts

    def _arrange(self, channels: list[Tensor], projection: Tensor | None) -> None:
        """Keep some channels of each layer, and project them where there is a matrix."""
        if projection is not None and self.gaussian.ensemble:
            raise ValueError(
                "gaussian.ensemble=sum needs channels that belong to a layer, and a projection"
                " mixes them: choose reduction=random, none or variance"
            )
        for i, chosen in enumerate(channels):
            self.register_buffer(f"channels_{i}", chosen)
        self.register_buffer("projection", projection)
        grids = [layer.grid for layer in self.backbone.layers]
        seen = None if self.ignored is None else ~self.ignored.cpu()
        self.channel_levels = Levels(grids, [len(chosen) for chosen in channels], seen)
        self.levels = (
            self.channel_levels
            if projection is None
            else self.channel_levels.projected(projection.shape[1])
        )
        Neighbourhood(self.levels, self.gaussian.neighbours)  # raises where it exceeds the grid

    def _learn(self) -> None:
        """Reduce what was accumulated of all channels, as their pooled covariance says."""
        everything, indices = self.statistics, self.levels.indices
        covariance = joined(pooled_covariance(everything), indices)
        learned = self.reduction.learn(covariance)
        chosen = learned.channels(len(covariance)).to(covariance.device)
        self._arrange(self._by_layer(chosen), learned.projection(len(covariance)))
        kept = [torch.isin(i.to(chosen.device), chosen) for i in indices]
        if self.projection is None:
            self.statistics = everything.select(self.levels, range(len(kept)), kept)
        else:
            self.statistics = everything.project(self.matrices())
        if sample := self.sample:
            seen = zip(sample.embedding, kept, strict=True)
            reduced = self.project([x[:, k] for x, k in seen])
            sample.replace(reduced, sample.keys, sample.seen)


def _arrange_loaded(model: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Keep what the state dict says where the config cannot.

    That is what was learned, a user's own reduction, and the pixels that are ignored.
    """
    assert isinstance(model, PaDiM)
    names = [f"{prefix}channels_{i}" for i in range(len(model.channels))]
    follows = type(model.reduction) in OURS.values() and not model.reduction.learns
    channels, projection = model.channels, model.projection
    if not follows and all(name in state for name in names):
        channels, projection = [state[name] for name in names], state.get(f"{prefix}projection")
    ignored = state.get(f"{prefix}ignored")
    if not follows or ignored is not None:
        model._ignore(None if ignored is None else ignored.clone())
        model._arrange(channels, projection)
        model.statistics = PatchStatistics(model.levels)


def _finalize_loaded(model: nn.Module, _: Any) -> None:
    assert isinstance(model, PaDiM)
    if model.statistics.count > 0:
        model.gaussian.fit(model.statistics)
    model.earlier = [copy.deepcopy(model.calibration)] if model.calibration else []
