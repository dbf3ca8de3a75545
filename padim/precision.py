"""Statistics and distances stay in float32, whatever the surroundings allow the backbone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


def autocast(device_type: str, enabled: bool) -> AbstractContextManager[object]:
    """bfloat16 autocast switched on or off; nothing where it is off already.

    An exporter writes every such context into its graph, which others then cannot read.
    """
    if not enabled and not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, torch.bfloat16, enabled)


@contextmanager
def _float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with autocast("cuda", False), autocast("cpu", False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def full_precision(
    method: Callable[Concatenate[M, P], R],
) -> Callable[Concatenate[M, P], R]:
    """Run a method without autocast, TF32 or gradients.

    A covariance of eigenvalues from eps = 0.01 to 100 does not survive products of 10 mantissa
    bits, and a trainer's `precision=bf16-mixed` must not reach it.
    """

    @wraps(method)
    def wrapper(self: M, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with _float32(), torch.no_grad():
            return method(self, *args, **kwargs)

    return wrapper
