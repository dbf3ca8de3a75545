"""Files on disk -> batches of uint8 images."""

from datamodules.errors import DataError, DatasetError, ImageError
from datamodules.files import ImageFiles, find_inputs
from datamodules.images import (
    IMAGE_SUFFIXES,
    Preprocessing,
    find_images,
    read_image,
    read_mask,
)
from datamodules.mvtec import CATEGORIES, MVTec, Sample

__all__ = [
    "CATEGORIES",
    "IMAGE_SUFFIXES",
    "DataError",
    "DatasetError",
    "ImageError",
    "ImageFiles",
    "MVTec",
    "Preprocessing",
    "Sample",
    "find_images",
    "find_inputs",
    "read_image",
    "read_mask",
]
