"""Files on disk -> batches of uint8 images."""

from datamodules.avenue import Avenue
from datamodules.category import CategoryData, Sample
from datamodules.demo import Demo
from datamodules.errors import DataError, DatasetError, ImageError
from datamodules.files import ImageFiles, VideoFrames, find_inputs
from datamodules.images import (
    IMAGE_SUFFIXES,
    Preprocessing,
    find_images,
    read_image,
    read_mask,
)
from datamodules.labelled import LabelledData
from datamodules.mvtec import CATEGORIES, MVTec, MVTecLayout
from datamodules.ped2 import UCSDPed2
from datamodules.pose import RandomPose
from datamodules.siblings import BTAD, MPDD, MVTecLOCO
from datamodules.stc import STC
from datamodules.video import frame_rate, is_video
from datamodules.visa import VisA

__all__ = [
    "BTAD",
    "CATEGORIES",
    "IMAGE_SUFFIXES",
    "MPDD",
    "STC",
    "Avenue",
    "CategoryData",
    "DataError",
    "DatasetError",
    "Demo",
    "ImageError",
    "ImageFiles",
    "LabelledData",
    "MVTec",
    "MVTecLOCO",
    "MVTecLayout",
    "Preprocessing",
    "RandomPose",
    "Sample",
    "UCSDPed2",
    "VideoFrames",
    "VisA",
    "find_images",
    "find_inputs",
    "frame_rate",
    "is_video",
    "read_image",
    "read_mask",
]
