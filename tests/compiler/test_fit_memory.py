"""FIT on 16,384 tokens: what is alive in both passes is what the closed form says, and nothing is L x L."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from live_tensors import LiveTensors
from torch import nn

from archspec.spec import ModelSpec
from compiler import CompiledModel, compile_spec
from compiler.cost.closed_form import model_cost
from compiler.recompute import recomputing

SpecMaker = Callable[..., ModelSpec]
L, N, D, D_LATENT = 16_384, 64, 16, 24  # tokens, of a group, widths
N_LATENTS = 2 * L // N
HEAD = f"""
archspec: 1
name: long
input: {{kind: tokens, vocab_size: 16, seq_len: {L}}}
causal: true
d_model: {D}
norm: layernorm
stem: embedding
head: {{kind: lm, tied: true}}
"""
FIT = f"""
- fit:
    n_groups: {L // N}
    n_latents: 2
    d_latent: {D_LATENT}
    schedule: "(2)2(1)1(1)"
    positions: learned
    local: {{token_mixer: {{kind: attention, n_heads: 2}}, channel_mixer: mlp}}
    global: {{token_mixer: {{kind: attention, n_heads: 2}}, channel_mixer: mlp}}
"""


def live(model: CompiledModel, run: nn.Module) -> LiveTensors:
    """Of a forward and a backward pass of one sequence."""
    ids = torch.zeros(1, L, dtype=torch.long)
    with LiveTensors() as seen:
        run(ids).sum().backward()
    return seen


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_peak_and_largest_tensor(make_spec: SpecMaker, causal: bool) -> None:
    model = compile_spec(make_spec(FIT, f"causal={str(causal).lower()}", head=HEAD), gate=False)
    seen = live(model, model.module)
    saved = sum(cost.activation_bytes for cost in model_cost(model.graph, phase="train").values())
    hidden = 4 * L * 4 * D  # of one MLP, of which the backward pass holds a few
    n_parameters = sum(p.numel() for p in model.parameters())
    assert 0.8 * saved < seen.peak < saved + 4 * n_parameters + 3 * hidden
    # The largest is an MLP's hidden layer or the mask of the latents, never pairs of tokens.
    assert seen.largest <= max(L * 4 * D, N_LATENTS**2, n_parameters)
    assert seen.largest < L * L // 200


def test_layers_that_are_computed_again_take_a_stream_each(make_spec: SpecMaker) -> None:
    model = compile_spec(make_spec(FIT, head=HEAD), gate=False)
    whole, again = live(model, model.module), live(model, recomputing(model.module))
    assert again.peak < 0.45 * whole.peak
    stream = 4 * L * D
    n_segments = 4 + 2 * 2  # local layers, reads and writes
    one_layer = 20 * stream  # the insides of one local layer and their gradients
    assert again.peak < (n_segments + 4) * stream + one_layer + 4 * sum(p.numel() for p in model.parameters())
