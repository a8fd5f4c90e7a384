"""A small FIT block of two rounds, 24 token ids for it, and models of it with random parameters."""

from __future__ import annotations

import torch

from archspec.spec import ModelSpec
from compiler import CompiledModel, compile_spec
from zoo.causality import randomised

FIT = """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(2)2(1)"
    positions: learned
    local: {token_mixer: attention, channel_mixer: mlp}
    global: {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}
"""
IDS = torch.randint(31, (2, 24), generator=torch.Generator().manual_seed(0))


def compiled(spec: ModelSpec) -> CompiledModel:
    """In float64, all parameters drawn at random, so that nothing hides behind small initial values."""
    model = compile_spec(spec, gate=False)
    model.module = randomised(model.module, 0)  # type: ignore[assignment]
    return model.eval()
