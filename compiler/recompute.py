"""GraphModule -> the same function that keeps a layer's inputs for the backward pass, not its insides.

Each layer (of both streams of FIT, too), read and write is a segment under ``torch.utils.checkpoint``: its
forward pass runs once more in the backward pass. Side products are outputs of a segment like any other, so
nothing is updated twice. The price is one more forward pass of the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

_LAYER = re.compile(r"(?:encoder\.)?layers\.\d+(\.blocks\.\d+\.(local_layers\.\d+|global_layers\.\d+|\w+))?")


def recomputing(module: fx.GraphModule) -> nn.Module:
    """It shares the weights of ``module``, whose gradients it makes; call it as ``module`` is called."""
    segments = dict(_segments(module.graph))
    layers = {number for number, is_layer in segments.values() if is_layer}
    split = split_module(module, module, lambda node: segments[node][0], keep_original_order=True)
    for number in layers:
        name = f"submod_{number}"
        if name in dict(split.named_children()):
            setattr(split, name, _Segment(split.get_submodule(name)))
    return split


def is_recomputed(path: str) -> bool:
    """Whether the component at ``path`` belongs to a layer, and may run again in the backward pass.

    Not all of a layer does: torch stops at the last tensor that the backward pass needs.
    """
    return _LAYER.match(path) is not None


class _Segment(nn.Module):
    """A part of a model whose insides are not kept."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: object) -> object:
        # No component draws random numbers in its forward pass, so their state need not be kept.
        return checkpoint(self.inner, *inputs, use_reentrant=False, preserve_rng_state=False)


def _segments(graph: fx.Graph) -> Iterator[tuple[fx.Node, tuple[int, bool]]]:
    """Every node's segment, numbered in order, and whether it is a layer; functions go with what precedes."""
    number, current = 0, ""
    for node in graph.nodes:
        if node.op == "call_module":
            found = _LAYER.match(str(node.target))
            key = found.group() if found else ""
            if key != current:
                number, current = number + 1, key
        yield node, (number, bool(current))
