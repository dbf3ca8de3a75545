"""Several processes, each with its own share of the images, and what they tell one another."""

import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from padim.sample import EmbeddingSample


class GradientFreeDDP(DDPStrategy):
    """Data-parallel processes that add up statistics; nothing has a gradient.

    Lightning's own strategy wraps the module for the gradients' sake and refuses one without. The
    data module gives each process its share of the images, and each may have its own number of
    batches: nothing is exchanged before the end of an epoch. An error in one process is raised in
    all of them when they next meet.

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
        # Also on GPUs there is something on the CPU to exchange: scores, errors, paths.
        default = "cpu:gloo,cuda:nccl" if self.root_device.type == "cuda" else "gloo"
        return self._process_group_backend or default

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """See `meet`."""
        meet()

    def on_exception(self, exception: BaseException) -> None:
        """See `meet`."""
        if isinstance(exception, Exception):
            meet(exception)

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
    """Whether this process is the first, which alone writes and tells."""
    return not several() or dist.get_rank() == 0


def meet(error: Exception | None = None) -> None:
    """Wait for all processes; raise what one of them brings along in those that bring nothing.

    So a process that fails keeps no other waiting: wherever these wait, it brings its error there.
    An error that comes from such a meeting is known to all and not told again.
    """
    if not several() or hasattr(error, "known_to_all"):
        return
    with suppress(RuntimeError) if error else nullcontext():  # the others may have ended by now
        for brought in gather_everywhere(error and _portable(error)):
            if brought and not error:
                brought.known_to_all = True
                raise brought
    if error:
        error.known_to_all = True  # type: ignore[attr-defined]


@contextmanager
def in_step() -> Iterator[None]:
    """What one process raises in the block all of them raise, at its end at the latest."""
    try:
        yield
    except Exception as error:
        meet(error)
        raise
    meet()


def gather_everywhere(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    if not several():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def of_first(value: Any) -> Any:
    """The first process's value, in all of them."""
    return gather_everywhere(value)[0]


def gather_to_first(value: Any) -> list[Any]:
    """The values of all processes, in their order; in any but the first process its own alone."""
    if not several():
        return [value]
    values = [None] * dist.get_world_size() if is_first() else None
    dist.gather_object(value, values)
    return values or [value]


def gather_tensors_to_first(value: Tensor, group: Any = None) -> list[Tensor]:
    """The same as a `dist_sync_fn` of torchmetrics, so that one process has all pixels, not all."""
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


def _portable(error: Exception) -> Exception:
    """A copy that other processes can raise; it notes where it comes from."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"In process {dist.get_rank()}:\n{''.join(traceback.format_exception(error))}")
    return copy
