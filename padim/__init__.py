"""PaDiM: the method. Knows tensors; knows no Hydra, no logger, no data set and no run folder.

The public names:

- `LitPaDiM`: the LightningModule, which fits in one epoch under any `Trainer`, tests and predicts.
- `PaDiM`, `Prediction`: the model without Lightning: `update`, `finalize`, call it on images.
- `Backbone`: a frozen timm network, cut behind the last layer used.
- `RandomChannels`, `PrincipalComponents`, `VarianceChannels`, `OrthogonalProjection`,
  `AllChannels`, `ChosenChannels`, `Projection`: what of the channels forms the embedding;
  `Reduction` is the base of your own.
- `PatchStatistics`, `PatchGaussian`, `Levels`, `ShrinkageChoice`: sufficient statistics, and the
  Gaussian of each position; grids that share them.
- `AnomalyMap`, `ImageScore`, `level_maps`, `place_in_original`: from distances to maps and scores.
- `Calibration`: thresholds with a stated false-alarm rate.
- `ImageMetrics`, `PixelMetrics`, `CurvePoints`: AUROC, AP, F1, PRO and their curves.
- `Region`, `find_regions`, `anomalous_pixels`: anomalous regions of a map.
- `load_checkpoint`, `CheckpointError`, `WeightsError`: model files, and errors of them.
- `merge`, `ModelSlice`, `channels_by_layer`, `union_of_channels`: models added up, and models that
  are part of a wider one.
- `GradientFreeDDP`: several devices, as
  `Trainer(strategy=GradientFreeDDP(), use_distributed_sampler=False)`.
- `Deployment`, `DeploymentError`: a model as a file that runs without this project.
"""

from padim.anomaly_map import AnomalyMap, place_in_original
from padim.backbone import Backbone
from padim.calibration import Calibration
from padim.checkpoint import CheckpointError, load_checkpoint
from padim.curve import CurvePoints
from padim.deployment import Deployment, DeploymentError
from padim.distributed import GradientFreeDDP
from padim.gaussian import PatchGaussian
from padim.image_score import ImageScore
from padim.level_maps import level_maps
from padim.levels import Levels
from padim.lightning import LitPaDiM
from padim.merging import merge
from padim.metrics import ImageMetrics, PixelMetrics
from padim.model import PaDiM, Prediction
from padim.reduction import (
    AllChannels,
    ChosenChannels,
    OrthogonalProjection,
    PrincipalComponents,
    Projection,
    RandomChannels,
    Reduction,
    VarianceChannels,
)
from padim.regions import Region, anomalous_pixels, find_regions
from padim.shrinkage import ShrinkageChoice
from padim.slicing import ModelSlice, channels_by_layer, union_of_channels
from padim.statistics import PatchStatistics
from padim.weights import WeightsError

__all__ = [
    "AllChannels",
    "AnomalyMap",
    "Backbone",
    "Calibration",
    "CheckpointError",
    "ChosenChannels",
    "CurvePoints",
    "Deployment",
    "DeploymentError",
    "GradientFreeDDP",
    "ImageMetrics",
    "ImageScore",
    "Levels",
    "LitPaDiM",
    "ModelSlice",
    "OrthogonalProjection",
    "PaDiM",
    "PatchGaussian",
    "PatchStatistics",
    "PixelMetrics",
    "Prediction",
    "PrincipalComponents",
    "Projection",
    "RandomChannels",
    "Reduction",
    "Region",
    "ShrinkageChoice",
    "VarianceChannels",
    "WeightsError",
    "anomalous_pixels",
    "channels_by_layer",
    "find_regions",
    "level_maps",
    "load_checkpoint",
    "merge",
    "place_in_original",
    "union_of_channels",
]
