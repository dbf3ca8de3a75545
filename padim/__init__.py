"""PaDiM: the method. It knows tensors, and no Hydra, no logger, no data set and no run folder.

The model and how it is fitted:

    PaDiM                 the method as a module: update, finalize, score
    Prediction            image scores and anomaly maps
    LitPaDiM              a PaDiM under any Lightning Trainer: fit, test, predict, checkpoints
    GradientFreeDDP       strategy for several devices: statistics are added up, without gradients
    load_checkpoint       read a model file back, or say what is wrong with it
    merge                 add up models that were fitted on different images

Its parts:

    Backbone              a frozen timm network, cut behind the last layer used
    Reduction             base of what follows, and of one's own
    AllChannels           every channel
    RandomChannels        some at random (the paper's Rd)
    OrthogonalProjection  random orthonormal directions
    PrincipalComponents   directions of most or least variance
    VarianceChannels      channels of most or least variance
    ChosenChannels        channels by index
    Projection            a matrix
    PatchGaussian         the Gaussian of every position, and distances to it
    ShrinkageChoice       the shrinkage coefficient that was chosen, and its curve
    AnomalyMap            distances to pixels: resize and smooth
    ImageScore            a map to one number
    Calibration           thresholds with a stated false-alarm rate, p-values
    PatchStatistics       count, means and scatters, which add up
    Levels                the grids of the layers, and how positions are numbered

What is done with maps and scores:

    ImageMetrics          AUROC, average precision and best F1 of images
    PixelMetrics          the same of pixels, PRO and AUPIMO
    CurvePoints           a ROC, precision-recall or PRO curve, to draw it
    level_maps            the part of each level in an anomaly map
    place_in_original     a map at the place of the original that it covers
    Region                a connected part of a map, with its box, area and peak
    find_regions          regions above a threshold
    anomalous_pixels      pixels above a threshold
    mean_as_image         the mean of new images, as one more image to score
    drift_p_values        whether new images are still from the distribution of the fit
    Deployment            a fitted model from pixels to a verdict, for ONNX and torch.export

Models that share a pass over the images:

    ModelSlice            a model as part of a wider one
    channels_by_layer     the channels a model uses
    union_of_channels     the channels several models use

Errors: CheckpointError, DeploymentError, WeightsError.

Several devices: `Trainer(devices=N, strategy=GradientFreeDDP(), use_distributed_sampler=False)` and
data loaders that give each process images of its own; see `padim.distributed`.
"""

from padim.anomaly_map import AnomalyMap, place_in_original
from padim.backbone import Backbone
from padim.calibration import Calibration
from padim.checkpoint import CheckpointError, load_checkpoint
from padim.curve import CurvePoints
from padim.deployment import Deployment, DeploymentError
from padim.distributed import GradientFreeDDP
from padim.drift import drift_p_values, mean_as_image
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
    "drift_p_values",
    "find_regions",
    "level_maps",
    "load_checkpoint",
    "mean_as_image",
    "merge",
    "place_in_original",
    "union_of_channels",
]
