"""Several processes, each with its own images: what a fit adds to Lightning's launching.

Lightning or torchrun start the processes, connect them, and end all of them when one fails. This
module has what they do not do, because elsewhere gradients are exchanged at every batch:

- No image is seen twice. Lightning's sampler would repeat some, so that all processes have equally
  many: `GradientFreeDDP` refuses it, and the data module gives each process its own images.
- Processes may have different numbers of batches: nothing is exchanged before the end of an epoch.
- Statistics are added up exactly (`PatchStatistics.all_reduce`), and samples of embeddings become
  that of all images (`merge_samples`), so that every process ends with the model of one process.
- Scores to be measured travel to the first process alone (`gather_tensors_to_first`): torchmetrics
  would copy all pixels to each.
"""

from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer

# Private: what Lightning's own strategy does before it wraps the module, which has no other name.
from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from padim.sample import EmbeddingSample


class GradientFreeDDP(DDPStrategy):
    """Data-parallel processes that add up statistics; nothing has a gradient.

    Lightning's own strategy wraps the module for the gradients' sake and refuses one without. Used
    as `Trainer(strategy=GradientFreeDDP(), use_distributed_sampler=False)`.

    Arguments as for `DDPStrategy`.
    """

    def setup(self, trainer: Trainer) -> None:
        """See `Strategy.setup`."""
        # Lightning 2.6 asks before each training batch whether to stop, and would wait for ever for
        # a process that has a batch less.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
        super().setup(trainer)

    def configure_ddp(self) -> None:
        """Begin with the weights and channels of the first process; nothing is wrapped."""
        assert isinstance(self.model, LightningModule)
        _sync_module_states(self.model)

    def _get_process_group_backend(self) -> str:
        # Also on GPUs there is something on the CPU to exchange: scores and paths.
        default = "cpu:gloo,cuda:nccl" if self.root_device.type == "cuda" else "gloo"
        return self._process_group_backend or default

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Asked for where Lightning is about to share out the images itself.

        Raises:
            ValueError: always, because it would show some images twice.
        """
        raise ValueError(
            "Trainer(use_distributed_sampler=False): Lightning's sampler repeats images, and each"
            " process has its own share already"
        )


def several() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_first() -> bool:
    """Whether this process is the first, which alone writes and logs."""
    return not several() or dist.get_rank() == 0


def gather_everywhere(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    if not several():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_to_first(value: Any) -> list[Any]:
    """The values of all processes, in their order; in any but the first process its own alone."""
    if not several():
        return [value]
    values = [None] * dist.get_world_size() if is_first() else None
    dist.gather_object(value, values)
    return values or [value]


def gather_tensors_to_first(value: Tensor, group: Any = None) -> list[Tensor]:
    """The same as a `dist_sync_fn` of torchmetrics."""
    return [part.to(value.device) for part in gather_to_first(value.cpu())]


def merge_samples(sample: EmbeddingSample) -> None:
    """Make each process's sample that of the images of all processes."""
    if not several():
        return
    seen = sum(gather_everywhere(sample.seen))
    smallest = torch.cat(gather_everywhere(sample.keys)).sort().values[: sample.size]
    kept = torch.isin(sample.keys, smallest)  # only these need to travel
    parts = gather_everywhere((sample.keys[kept], [x[..., kept].cpu() for x in sample.embedding]))
    parts = [(keys, embedding) for keys, embedding in parts if len(keys)]
    levels = zip(*(embedding for _, embedding in parts), strict=True)
    device = sample.embedding[0].device if sample.embedding else None
    embedding = [torch.cat(level, dim=-1).to(device) for level in levels]
    sample.replace(embedding, torch.cat([keys for keys, _ in parts]), seen)


def _nothing() -> None:
    """Asks nobody."""
