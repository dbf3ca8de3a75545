"""Files on disk -> batches of uint8 images."""

from datamodules.avenue import Avenue
from datamodules.clips import Clip
from datamodules.decoding import read_image, read_mask
from datamodules.demo import Demo
from datamodules.errors import DataError, DatasetError, ImageError
from datamodules.files import ImageFiles, VideoFrames
from datamodules.finding import find_inputs, is_video, summary
from datamodules.folder import Folder, find_defects, normal_folder
from datamodules.labelled import CategoryData, LabelledData, LabelledImages
from datamodules.loading import Loading
from datamodules.made_defects import MadeDefects
from datamodules.mvtec import CATEGORIES, MVTec, MVTecLayout
from datamodules.mvtec_like import BTAD, MPDD, MVTecLOCO
from datamodules.ped2 import UCSDPed2
from datamodules.preprocessing import PADDING, Preprocessing
from datamodules.rotation_crop import RandomRotationCrop
from datamodules.samples import GOOD, Sample
from datamodules.stc import STC
from datamodules.video import frame_rate
from datamodules.visa import VisA

__all__ = [
    "BTAD",
    "CATEGORIES",
    "GOOD",
    "MPDD",
    "PADDING",
    "STC",
    "Avenue",
    "CategoryData",
    "Clip",
    "DataError",
    "DatasetError",
    "Demo",
    "Folder",
    "ImageError",
    "ImageFiles",
    "LabelledData",
    "LabelledImages",
    "Loading",
    "MVTec",
    "MVTecLOCO",
    "MVTecLayout",
    "MadeDefects",
    "Preprocessing",
    "RandomRotationCrop",
    "Sample",
    "UCSDPed2",
    "VideoFrames",
    "VisA",
    "find_defects",
    "find_inputs",
    "frame_rate",
    "is_video",
    "normal_folder",
    "read_image",
    "read_mask",
    "summary",
]
