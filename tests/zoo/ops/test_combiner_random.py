"""Every Combiner variant beside its definition, on random configurations, lengths and paddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from combiner_cases import SUMMARIES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archspec import Site
from zoo.causality import randomised
from zoo.contract import MixerOutput
from zoo.token_mixers.combiner import Combiner

PRIMES = (2, 3, 5, 7, 13, 31, 37, 61, 67)


@st.composite
def configurations(draw: st.DrawFn, variant: str) -> Combiner.Config:
    fields: dict[str, Any] = {"variant": variant}
    if variant != "logsparse":
        fields["span"] = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 30, 80]))
    if variant == "axial":
        fields["row_summary"] = draw(st.sampled_from(["none", "wsum", "proj", "wsum_proj"]))
    else:
        fields["local_summary"] = draw(st.sampled_from(SUMMARIES))
    if variant == "mixture":
        fields["groups"] = draw(st.sampled_from(["both", "vertical", "horizontal"]))
    if variant in ("fixed", "axial"):
        fields["compat"] = draw(st.sampled_from(["none", "official"]))
    if variant == "clustered":
        fields["n_clusters"] = draw(st.integers(1, 6))
        fields["freeze_router"] = draw(st.booleans())
    return Combiner.Config(
        n_heads=draw(st.integers(1, 3)),
        d_head=draw(st.integers(2, 5)),
        qkv_bias=draw(st.booleans()),
        out_bias=draw(st.booleans()),
        **fields,
    )


@st.composite
def cases(draw: st.DrawFn, variant: str) -> tuple[Combiner.Config, bool, int, str, int]:
    """A configuration, whether it is causal, a length, where there is padding, and a seed."""
    config = draw(configurations(variant))
    block = 16 if config.variant == "logsparse" else min(config.span, 33)
    edges = [max(1, many * block + more) for many in (1, 2) for more in (-1, 0, 1)]
    length = draw(st.sampled_from([1, *PRIMES, *edges]))
    padding = draw(st.sampled_from(["none", "right", "left", "holes", "all of one row"]))
    return config, draw(st.booleans()), length, padding, draw(st.integers(0, 9))


def mask_of(padding: str, length: int) -> Tensor | None:
    i = torch.arange(length)
    return {
        "none": None,
        "right": i < torch.tensor([[length], [max(1, length // 2)]]),
        "left": i >= torch.tensor([[0], [length // 2]]),
        "holes": (i % 3 != 1).expand(2, length),
        "all of one row": i < torch.tensor([[length], [0]]),
    }[padding]


@pytest.mark.parametrize("variant", ["fixed", "logsparse", "axial", "mixture", "clustered"])
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_augmented_kv(variant: str, data: st.DataObject) -> None:
    """Attention to tokens and summaries, one by one: values and gradients, of the auxiliary loss too."""
    config, causal, length, padding, seed = data.draw(cases(variant))
    mixer = randomised(Combiner(config, Site(6, 128, causal)), seed).train()
    assert isinstance(mixer, Combiner)
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(2, 2, length, 6, generator=generator, dtype=torch.float64)
    mask = mask_of(padding, length)
    if mask is not None:
        weight = weight * mask[..., None]
    found = []
    for run in (mixer, mixer.reference):
        given_x = x.clone().requires_grad_()
        out = run(given_x, mask)
        y, *rest = out if isinstance(out, MixerOutput) else (out,)
        total = (y * weight).sum() + sum(rest[:1])
        wanted = [given_x, *mixer.parameters()]
        gradients = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        found.append([y.detach() * (weight != 0), *(t.detach() for t in rest), *gradients])
    for a, b in zip(*found):
        assert float((a - b).abs().max()) < 1e-10 * max(1.0, float(b.abs().max()))
