"""Files on disk -> batches of uint8 images."""

from datamodules.category import CategoryData, Sample
from datamodules.demo import Demo
from datamodules.errors import DataError, DatasetError, ImageError
from datamodules.files import ImageFiles, find_inputs
from datamodules.images import (
    IMAGE_SUFFIXES,
    Preprocessing,
    find_images,
    read_image,
    read_mask,
)
from datamodules.mvtec import CATEGORIES, MVTec, MVTecLayout
from datamodules.pose import RandomPose
from datamodules.siblings import BTAD, MPDD, MVTecLOCO
from datamodules.visa import VisA

__all__ = [
    "BTAD",
    "CATEGORIES",
    "IMAGE_SUFFIXES",
    "MPDD",
    "CategoryData",
    "DataError",
    "DatasetError",
    "Demo",
    "ImageError",
    "ImageFiles",
    "MVTec",
    "MVTecLOCO",
    "MVTecLayout",
    "Preprocessing",
    "RandomPose",
    "Sample",
    "VisA",
    "find_images",
    "find_inputs",
    "read_image",
    "read_mask",
]
