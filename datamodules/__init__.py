"""Files on disk -> batches of uint8 images."""

from datamodules.avenue import Avenue
from datamodules.category import CategoryData
from datamodules.demo import Demo
from datamodules.errors import DataError, DatasetError, ImageError
from datamodules.files import ImageFiles, VideoFrames, find_inputs, find_others
from datamodules.folder import Folder, normal_folder
from datamodules.images import (
    IMAGE_SUFFIXES,
    Preprocessing,
    find_images,
    read_image,
    read_mask,
)
from datamodules.labelled import LabelledData
from datamodules.labelled_images import LabelledImages, Sample
from datamodules.loading import PREPARATION
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
    "PREPARATION",
    "STC",
    "Avenue",
    "CategoryData",
    "DataError",
    "DatasetError",
    "Demo",
    "Folder",
    "ImageError",
    "ImageFiles",
    "LabelledData",
    "LabelledImages",
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
    "find_others",
    "frame_rate",
    "is_video",
    "normal_folder",
    "read_image",
    "read_mask",
]
