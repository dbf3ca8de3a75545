"""The model and the data that are measured."""

from functools import cached_property
from itertools import cycle, islice

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything
from torch import Tensor

from datamodules import LabelledImages, read_image
from experiments.fit import new_model
from experiments.running.trainer import open_trainer
from padim import Backbone, LitPaDiM, PaDiM


class Subject:
    """What a fit of a configuration would be made of, to be measured piece by piece.

    Args:
        config: of the benchmark.

    Raises:
        ValueError: the data are no image files.

    Attributes:
        data: with as many training images as wanted, its own again and again if need be.
        backbone: shared by all fits.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        seed_everything(config.seed, verbose=False)
        self.data = instantiate(config.data)
        if not isinstance(self.data, LabelledImages):
            raise ValueError(f"a benchmark needs image files, not the stream of {self.data.name}")
        self.data.prepare_data()
        self.data.setup("fit")
        paths = self.data.train_paths
        self.data.train_paths = list(islice(cycle(paths), config.images or len(paths)))
        self.device = torch.device(config.device)
        self.backbone: Backbone = instantiate(config.backbone, image_size=self.data.image_size)

    def new_model(self, calibrated: bool = False) -> PaDiM:
        """A model to be fitted, one with a threshold if `calibrated`."""
        config = OmegaConf.merge({"save_model": calibrated}, self.config)
        assert isinstance(config, DictConfig)
        self.backbone.train()  # as any new module: its network is in eval mode all the same
        return new_model(config, self.backbone)

    def fit(self, calibrated: bool = False) -> LitPaDiM:
        """A whole fit."""
        module = LitPaDiM(self.new_model(calibrated))
        with open_trainer(self.config, None, progress=False) as trainer:
            trainer.fit(module, datamodule=self.data)
        return module

    def decode_and_embed(self) -> None:
        """What no fit can do without: each image decoded, and the backbone's maps of it."""
        self.backbone.to(self.device)
        for batch in self.data.train_dataloader():
            self.backbone(batch["image"].to(self.device, non_blocking=True))

    @cached_property
    def fitted(self) -> LitPaDiM:
        """A fitted model with its threshold, on the device, ready to score."""
        return self.fit(calibrated=True).to(self.device).eval()

    def images(self, count: int) -> Tensor:
        """The first training images on the device, uint8 (count, 3, H, W)."""
        paths = islice(cycle(self.data.train_paths), count)
        prepared = [self.data.preprocessing.image(read_image(path), path) for path in paths]
        return torch.stack(prepared).to(self.device)
