"""Cutting a network behind the layers whose outputs are wanted."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import get_notrace_functions, get_notrace_modules
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from padim.weights import reason


def cut(network: nn.Module, name: str, layers: Sequence[str]) -> fx.GraphModule:
    """A module that returns the outputs of `layers`, in their order, and holds nothing beyond."""
    tracer = _Tracer(layers)
    try:
        graph = tracer.trace(network)
    except Exception as error:  # whatever the model's own code raises
        raise ValueError(
            f"{name} cannot be traced, so it cannot be cut into layers ({reason(error)}):"
            " choose another backbone"
        ) from error
    for layer in layers:
        if layer not in tracer.outputs:
            raise ValueError(
                f"layer {layer} of {name} is never called as a whole, so it gives no map:"
                " choose another of backbone.layers"
            )
    graph.erase_node(next(node for node in graph.nodes if node.op == "output"))
    graph.output(tracer.create_arg(tuple(tracer.outputs[layer] for layer in layers)))
    _follow_device(graph)
    whole = fx.GraphModule(network, graph)
    graph.eliminate_dead_code()
    return fx.GraphModule(whole, graph)


def fold_batch_norms(network: fx.GraphModule) -> fx.GraphModule:
    """The same network with each batch normalisation that follows a convolution inside it.

    In eval mode that is a scale and a shift, up to a third of a network's time on a CPU. Float32
    rounds the product of weights and scale, so outputs differ in their last digits.
    """
    graph = network.graph
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in list(graph.nodes):
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or len(before.users) > 1:
            continue
        norm = network.get_submodule(node.target)
        if not isinstance(norm, nn.BatchNorm2d) or before.op != "call_module":
            continue
        convolution = network.get_submodule(str(before.target))
        once = calls[node.target] == calls[before.target] == 1
        if not (isinstance(convolution, nn.Conv2d) and once):
            continue
        if norm.running_mean is None or norm.running_var is None:
            continue
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight,
            convolution.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        # What timm's own normalisation does besides.
        rest = [getattr(norm, name, None) for name in ("drop", "act")]
        network.set_submodule(
            node.target, nn.Sequential(*(m for m in rest if isinstance(m, nn.Module)))
        )
    return fx.GraphModule(network, graph)


class _Tracer(fx.Tracer):
    """Notes what the modules named return, and enters none that timm marks as opaque."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__((math,), tuple(get_notrace_functions()))
        self.names = names
        self.outputs: dict[str, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        opaque = isinstance(m, tuple(get_notrace_modules()))
        return opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        if (name := self.path_of_module(m)) in self.names:
            # A copy, since what follows may work in place (`x += shortcut`, `ReLU(inplace=True)`).
            self.outputs[name] = output.clone() if isinstance(output, fx.Proxy) else output
        return output


def _follow_device(graph: fx.Graph) -> None:
    """Let the image's device take the place of one that tracing has fixed."""
    fixed = [
        node
        for node in graph.nodes
        if any(isinstance(a, torch.device) for a in (*node.args, *node.kwargs.values()))
    ]
    image = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
        device = graph.call_function(getattr, (image, "device"))
    for node in fixed:
        node.args = tuple(device if isinstance(a, torch.device) else a for a in node.args)
        node.kwargs = {
            key: device if isinstance(a, torch.device) else a for key, a in node.kwargs.items()
        }
