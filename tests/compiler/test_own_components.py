"""The compiler's own components (what joins parallel mixers, FIT's tables) cost what they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from archspec import CostContext, Site
from archspec.spec import ModelSpec
from compiler import compile_spec, profile
from zoo.combine import Combine

SpecMaker = Callable[..., ModelSpec]

FIT = """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    positions: learned
    local: {token_mixer: attention}
    global: {token_mixer: {kind: attention, n_heads: 2}}
"""
PARALLEL = "- {{token_mixer: {{parallel: [attention, pool, {{kind: attention, window: 4}}], combine: {}}}}}"
LAYERS = {"fit": FIT} | {how: PARALLEL.format(how) for how in ("mean", "sum", "gated", "concat")}


@pytest.mark.parametrize("name", LAYERS)
def test_closed_form_is_exact(make_spec: SpecMaker, name: str) -> None:
    spec = make_spec(LAYERS[name])
    found = profile(spec, verify=True)
    assert found.verify is not None
    assert found.verify.exact is True
    assert found.params == sum(p.numel() for p in compile_spec(spec, gate=False).parameters())


@pytest.mark.parametrize("config", Combine.examples, ids=lambda config: config.combine)
def test_branches_are_joined_as_said(config: Combine.Config) -> None:
    combine = Combine(config, Site(4, 8, causal=True)).double()
    n = config.n_branches
    ys = torch.randn(n, 2, 3, 4, dtype=torch.float64)
    match config.combine:
        case "sum":
            expected = ys.sum(0)
        case "concat":
            expected = torch.einsum("nblc,dnc->bld", ys, combine.out.weight.unflatten(1, (n, 4)))
        case "gated":
            torch.testing.assert_close(combine.gate.sum().item(), 1.0)  # it begins as the mean
            expected = torch.einsum("n,nbld->bld", combine.gate, ys)
        case "mean":
            expected = ys.mean(0)
    torch.testing.assert_close(combine(*ys), expected, rtol=0, atol=1e-12)
    cost = config.cost(CostContext(d_model=4, seq_len=3, batch_size=2))
    assert cost.params == sum(p.numel() for p in combine.parameters())
