"""PaDiM: the method. Knows tensors; knows no Hydra, no logger, no data set and no run folder."""

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
    RandomChannels,
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
    "RandomChannels",
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
