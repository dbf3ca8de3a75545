"""The demo data set: drawn by a program on first use, so that a first run needs no download."""

from datamodules.demo.datamodule import Demo
from datamodules.demo.generate import make_demo

__all__ = ["Demo", "make_demo"]
