"""FIT's read and write: torch's own cross-attention as oracle, parameters by formula, masked groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archspec import CostContext, Site
from zoo.ops.cross import CrossTransfer
from zoo.transfers.read import Read
from zoo.transfers.write import Write

WIDTHS = [pytest.param(16, 24, id="narrow queries"), pytest.param(24, 16, id="wide queries")]


def build(cls: type[CrossTransfer], d_model: int, d_source: int) -> CrossTransfer:
    """With all parameters at random: biases and norms start at constants."""
    transfer = cls(cls.Config(n_heads=2), Site(d_model, 32, causal=False), d_source).double()
    with torch.no_grad():
        for parameter in transfer.parameters():
            parameter.normal_(std=0.5)
    return transfer


@pytest.mark.parametrize("cls", [Read, Write])
def test_equals_torchs_multi_head_attention(cls: type[CrossTransfer]) -> None:
    """Where the queries are the narrower stream, torch has the same layer."""
    ours = build(cls, 16, 24)
    theirs = nn.MultiheadAttention(16, 2, kdim=24, vdim=24, batch_first=True).double()
    with torch.no_grad():
        theirs.q_proj_weight.copy_(ours.q.weight)
        theirs.k_proj_weight.copy_(ours.k.weight)
        theirs.v_proj_weight.copy_(ours.v.weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, source = torch.randn(3, 5, 16).double(), torch.randn(3, 7, 24).double()
    mask = torch.arange(7) < torch.tensor([[7], [3], [1]])
    q, s = ours.query_norm(queries), ours.source_norm(source)
    wanted, _ = theirs(q, s, s, key_padding_mask=~mask)
    torch.testing.assert_close(ours(queries, source, mask), wanted)


@pytest.mark.parametrize(("d_latent", "d_token"), [(768, 512), (512, 768), (64, 64)])
def test_parameters_by_formula(d_latent: int, d_token: int) -> None:
    dl, dx, a = d_latent, d_token, min(d_latent, d_token)
    read = Read.Config().cost(CostContext(dl, 16, d_source=dx, source_len=64))
    write = Write.Config().cost(CostContext(dx, 64, d_source=dl, source_len=16))
    assert read.params == 2 * dl * a + 2 * dx * a + 3 * a + dl + 2 * dl + 2 * dx
    assert write.params == 2 * dx * a + 2 * dl * a + 3 * a + dx + 2 * dx + 2 * dl


@pytest.mark.parametrize(("d_model", "d_source"), WIDTHS)
@pytest.mark.parametrize("cls", [Read, Write])
def test_a_masked_group_gives_the_output_bias(cls: type[CrossTransfer], d_model: int, d_source: int) -> None:
    transfer = build(cls, d_model, d_source)
    queries = torch.randn(2, 5, d_model).double().requires_grad_()
    source = torch.randn(2, 7, d_source).double().requires_grad_()
    mask = torch.tensor([[True] * 7, [False] * 7])
    y = transfer(queries, source, mask)
    torch.testing.assert_close(y[1], transfer.out.bias.expand(5, -1))
    torch.testing.assert_close(y[0], transfer(queries, source)[0])
    y.square().sum().backward()
    assert source.grad is not None
    assert source.grad.isfinite().all()
    assert not source.grad[1].any()
    assert queries.grad is not None
    assert not queries.grad[1].any()


@pytest.mark.parametrize(("d_model", "d_source"), WIDTHS)
def test_the_order_of_the_source_does_not_matter(d_model: int, d_source: int) -> None:
    transfer = build(Read, d_model, d_source)
    queries, source = torch.randn(2, 5, d_model).double(), torch.randn(2, 7, d_source).double()
    torch.testing.assert_close(transfer(queries, source), transfer(queries, source.flip(1)))


def test_no_residual_inside() -> None:
    transfer = build(Read, 16, 24)
    nn.init.zeros_(transfer.out.weight)
    nn.init.zeros_(transfer.out.bias)
    assert not transfer(torch.randn(2, 5, 16).double(), torch.randn(2, 7, 24).double()).any()


def test_heads_divide_the_narrower_stream() -> None:
    config = Read.Config(n_heads=3)
    assert config.source_misfit(24, 32) is None
    assert "smaller of the streams' widths (32)" in (config.source_misfit(48, 32) or "")
