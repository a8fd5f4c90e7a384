"""A model whose layers are computed again in the backward pass: the same values and gradients in less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from encoder_cases import HEAD, LAYERS, SOURCE, SOURCE_MASK, TARGET
from fit_cases import FIT, IDS
from live_tensors import LiveTensors
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from archspec.spec import ModelSpec
from compiler import compile_spec
from compiler.recompute import _Segment, recomputing

SpecMaker = Callable[..., ModelSpec]
ROUTING = "{kind: routing, n_heads: 2, n_clusters: 2, cluster_window: 2, window: 2}"
MODELS = {
    "layers": "- repeat: 3\n  layers: [{token_mixer: attention, channel_mixer: mlp}, {token_mixer: {kind: mamba2, d_head: 8}}]",
    "turns of a loop": "- loop: 2\n  layers: [{token_mixer: attention, channel_mixer: mlp}]",
    "fit": FIT,
    "fit of mixers with side products": FIT.replace("{token_mixer: attention,", f"{{token_mixer: {ROUTING},"),
    "one part": "- {channel_mixer: mlp}",
}


def passed(run: nn.Module, mask: Tensor | None) -> tuple[list[Tensor], list[Tensor | None]]:
    """All outputs, and the gradients of all parameters of ``run``, each once."""
    outputs = [x for x in pytree.tree_leaves(run(IDS, mask)) if isinstance(x, Tensor)]
    total = torch.stack(
        [(x * torch.arange(x.numel()).view(x.shape).cos()).sum() for x in outputs if x.requires_grad]
    )
    parameters = list(dict.fromkeys(run.parameters()))
    return outputs, list(torch.autograd.grad(total.sum(), parameters, allow_unused=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("is_padded", [False, True], ids=["full", "padded"])
def test_values_and_gradients_are_the_same(make_spec: SpecMaker, name: str, is_padded: bool) -> None:
    module = compile_spec(make_spec(MODELS[name], "d_model=16"), gate=False).to(torch.float64).train().module
    again = recomputing(module)
    assert {id(p) for p in again.parameters()} == {id(p) for p in module.parameters()}
    mask = torch.arange(24) < torch.tensor([[13], [24]]) if is_padded else None
    names = {id(p): n for n, p in module.named_parameters()}
    (one, gradients), (other, others) = passed(module, mask), passed(again, mask)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    found = dict(zip((names[id(p)] for p in dict.fromkeys(again.parameters())), others, strict=True))
    for n, gradient in zip(
        (names[id(p)] for p in dict.fromkeys(module.parameters())), gradients, strict=True
    ):
        assert (gradient is None) == (found[n] is None)
        if gradient is not None:
            torch.testing.assert_close(found[n], gradient, rtol=1e-12, atol=1e-12)


def test_a_layers_insides_are_not_kept(make_spec: SpecMaker) -> None:
    """Of eight layers: what is alive after the forward pass is about one stream per layer."""
    layers = "- repeat: 8\n  layers: [{token_mixer: attention, channel_mixer: mlp}]"
    module = compile_spec(make_spec(layers, "input.seq_len=512", "d_model=64"), gate=False).module
    ids = torch.randint(31, (1, 512))
    alive, peaks = [], []
    for run in (module, recomputing(module)):
        with LiveTensors() as live:
            y = run(ids)
            alive.append(live.now)
            y.sum().backward()
        peaks.append(live.peak)
    stream = 4 * 512 * 64
    assert alive[1] < 12 * stream < alive[0] / 8
    assert peaks[1] < peaks[0] / 3


def test_an_encoders_layers_are_computed_again_too(make_spec: SpecMaker) -> None:
    module = compile_spec(make_spec(LAYERS, head=HEAD), gate=False).to(torch.float64).train().module
    again = recomputing(module)
    n_segments = 2 + 3  # the encoder's; turns of one layer that follow each other are one
    assert sum(isinstance(child, _Segment) for child in again.children()) == n_segments
    parameters = list(dict.fromkeys(module.parameters()))
    found = []
    for run in (module, again):
        y, losses, _ = run(SOURCE, TARGET, SOURCE_MASK)
        loss = y.square().sum() + torch.stack(losses).sum()
        found.append((y, torch.autograd.grad(loss, parameters, allow_unused=True)))
    (one, gradients), (other, others) = found
    assert torch.equal(one, other)
    for gradient, repeated in zip(gradients, others, strict=True):
        torch.testing.assert_close(repeated, gradient, rtol=1e-12, atol=1e-12)
