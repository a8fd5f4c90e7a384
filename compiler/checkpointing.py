"""A compiled model whose layers are run again for the backward pass instead of keeping what it needs.

Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174), one checkpoint per layer: between the passes only
the layers' inputs are kept. The wrapper holds the same modules, so weights are shared with the model; it is
for training, and ``state_dict`` stays the model's own.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

_LAYER = re.compile(r"layers\.(\d+)\.")


def checkpointed(module: fx.GraphModule) -> nn.Module:
    """``module`` of a ``CompiledModel`` with a checkpoint around each layer."""
    stages = _stages(module)
    cut = split_module(module, module, lambda node: stages[node], keep_original_order=True)
    for name, part in list(cut.named_children()):
        stage = int(name.removeprefix("submod_"))
        if stage % 2:
            setattr(cut, name, _Checkpointed(part))
    return cut


class _Checkpointed(nn.Module):
    """No layer draws random numbers, so their state need not be kept."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, *args: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.part(*args)
        return checkpoint(self.part, *args, use_reentrant=False, preserve_rng_state=False)


def _stages(module: fx.GraphModule) -> dict[fx.Node, int]:
    """Layers have odd numbers; what runs between modules belongs to the first of them."""
    stages: dict[fx.Node, int] = {}
    stage, layer = 0, ""
    for node in module.graph.nodes:
        if node.op == "call_module":
            match = _LAYER.match(str(node.target))
            found = match[1] if match else ""
            if found != layer:
                stage += 2 - stage % 2 if not found else 1 + stage % 2
                layer = found
        stages[node] = stage
    return stages
