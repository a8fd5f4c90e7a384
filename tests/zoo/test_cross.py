"""What a decoder's layer reads the encoder with: full attention, and routed heads beside local ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from archspec import CostContext, Site
from compiler.cost.fvcore_check import count_macs
from zoo.causality import causality_leak, randomised, vectors
from zoo.contract import MixerOutput, Transfer, only_output
from zoo.ops.aligned import aligned_attention, aligned_pairs, dense_aligned_attention
from zoo.ops.router import normalised
from zoo.transfers.attention import CrossAttention
from zoo.transfers.routing import RoutingTransfer

CLOSE = {"rtol": 1e-10, "atol": 1e-11}
D, DS = 12, 10
CONFIGS: dict[str, tuple[type[Transfer], Any]] = {
    "full": (CrossAttention, CrossAttention.Config(n_heads=3, d_head=5, qkv_bias=True, out_bias=True)),
    "mixed": (RoutingTransfer, RoutingTransfer.Config(n_heads=3, window=5, n_clusters=3, cluster_window=4)),
    "official": (
        RoutingTransfer,
        RoutingTransfer.Config(
            n_heads=3, n_routed_heads=2, window=9, n_clusters=2, cluster_window=6, head_mix=True,
            compat="official",
        ),
    ),
    "local": (RoutingTransfer, RoutingTransfer.Config(n_heads=2, n_routed_heads=0, window=4)),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", CONFIGS)


def build(name: str) -> Transfer:
    cls, config = CONFIGS[name]
    twin = randomised(cls(config, Site(D, 64, causal=True), DS), 0)
    assert isinstance(twin, Transfer)
    return twin.eval()


def streams(n_queries: int, n_source: int, *, batch: int = 2) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(n_queries + 100 * n_source)
    return (
        torch.randn(batch, n_queries, D, generator=draw, dtype=torch.float64),
        torch.randn(batch, n_source, DS, generator=draw, dtype=torch.float64),
    )


@EACH
@pytest.mark.parametrize(
    "mask", [None, torch.tensor([[True] * 23, [True] * 9 + [False] * 14])], ids=["", "mask"]
)
def test_recall_of_a_remembered_source_is_forward(name: str, mask: Tensor | None) -> None:
    """From any place on, one query or several at once."""
    transfer, (x, source) = build(name), streams(40, 23)
    whole = only_output(transfer(x, source, mask))
    state = transfer.remember(source) | ({} if mask is None else {"mask": mask})
    for first, n in ((0, 40), (0, 1), (7, 1), (30, 10), (39, 1)):
        got = transfer.recall(x[:, first : first + n], state, first=first)
        torch.testing.assert_close(got, whole[:, first : first + n], **CLOSE)


@EACH
def test_what_is_remembered_is_as_large_as_the_cost_says(name: str) -> None:
    cls, config = CONFIGS[name]
    state = cls(config, Site(D, 64, causal=True), DS).remember(torch.randn(1, 23, DS))
    held = sum(t.numel() * t.element_size() for t in state.values())
    ctx = CostContext(D, 1, causal=True, phase="decode", d_source=DS, source_len=23, context_len=23)
    assert config.cost(ctx).kv_bytes_per_token * 23 == held


@EACH
@pytest.mark.parametrize(("n_queries", "n_source"), [(1, 1), (33, 7), (7, 33), (65, 64)])
def test_cost_counts_what_runs(name: str, n_queries: int, n_source: int) -> None:
    cls, config = CONFIGS[name]
    transfer = cls(config, Site(D, 64, causal=True), DS).eval()
    x, source = (t.float() for t in streams(n_queries, n_source))
    ctx = CostContext(D, n_queries, 2, causal=True, d_source=DS, source_len=n_source)
    counted = count_macs(transfer, (x, source))
    assert counted.unknown_ops == ()
    assert config.cost(ctx).flops == 2 * counted.macs
    assert config.cost(ctx).flops_needed <= config.cost(ctx).flops


@EACH
def test_no_query_decides_what_another_one_reads(name: str) -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transfer = build(name)
            self.register_buffer("source", streams(1, 23)[1], persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return only_output(self.transfer(x, self.source))

    assert causality_leak(Reading(), vectors(D), lengths=(2, 7, 33)) is None


def test_full_attention_is_torchs_own() -> None:
    ours = CrossAttention(
        CrossAttention.Config(n_heads=3, qkv_bias=True, out_bias=True), Site(D, 64, True), DS
    )
    theirs = nn.MultiheadAttention(D, 3, kdim=DS, vdim=DS, batch_first=True).double()
    twin = randomised(ours, 0)
    assert isinstance(twin, CrossAttention)
    with torch.no_grad():
        for kind in "qkv":
            getattr(theirs, f"{kind}_proj_weight").copy_(getattr(twin, kind).weight)
        theirs.in_proj_bias.copy_(torch.cat([twin.q.bias, twin.k.bias, twin.v.bias]))
        theirs.out_proj.load_state_dict(twin.out.state_dict())
    x, source = streams(9, 7)
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    want, _ = theirs(x, source, source, key_padding_mask=~mask)
    torch.testing.assert_close(twin(x, source, mask), want)


def test_one_cluster_that_holds_all_is_full_attention() -> None:
    config = RoutingTransfer.Config(n_heads=3, n_routed_heads=3, n_clusters=1, cluster_window=64)
    routed = randomised(RoutingTransfer(config, Site(D, 64, True), DS), 0)
    plain = randomised(CrossAttention(CrossAttention.Config(n_heads=3), Site(D, 64, True), DS), 1)
    plain.load_state_dict({n: t for n, t in routed.state_dict().items() if n != "centroids"})
    x, source = streams(19, 23)
    torch.testing.assert_close(routed(x, source).y, plain(x, source), **CLOSE)


def test_official_normalises_and_does_not_scale() -> None:
    config = RoutingTransfer.Config(
        n_heads=1, n_routed_heads=1, n_clusters=1, cluster_window=64, compat="official"
    )
    transfer = randomised(RoutingTransfer(config, Site(D, 64, True), DS), 0)
    assert isinstance(transfer, RoutingTransfer)
    x, source = streams(5, 7)
    q, k = normalised(transfer.q(x)), normalised(transfer.k(source))
    want = transfer.out((q @ k.transpose(1, 2)).softmax(-1) @ transfer.v(source))
    torch.testing.assert_close(only_output(transfer(x, source)), want, **CLOSE)


def test_centroids_follow_the_real_keys() -> None:
    config = RoutingTransfer.Config(n_heads=1, n_routed_heads=1, n_clusters=2, cluster_window=4, decay=0.75)
    transfer = randomised(RoutingTransfer(config, Site(D, 64, True), DS), 0).train()
    assert isinstance(transfer, RoutingTransfer)
    x, source = streams(5, 17)
    mask = torch.arange(17) < torch.tensor([[17], [9]])
    out = transfer(x, source, mask)
    assert isinstance(out, MixerOutput)
    seen = normalised(transfer.k(source))[mask]
    own = (seen @ normalised(transfer.centroids[0]).T).argmax(-1)
    start = transfer.centroids.clone()
    transfer.apply_statistics(out.statistics)
    for c in range(2):
        members = seen[own == c]
        want = 0.75 * start[0, c] + 0.25 * members.mean(0) if len(members) else start[0, c]
        torch.testing.assert_close(transfer.centroids[0, c], want, **CLOSE)
    torch.testing.assert_close(out.aux_loss, 1e-4 * (seen - start[0][own]).square().mean(), **CLOSE)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 50), st.booleans(), st.integers(0, 30))
def test_aligned_fast_equals_reference(M: int, N: int, window: int, is_padded: bool, seed: int) -> None:
    """Values and gradients; and the pairs that are needed, by brute force."""
    draw = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(2, 2, n, 3, generator=draw, dtype=torch.float64).requires_grad_() for n in (M, N, N)
    )
    mask = torch.rand(2, N, generator=draw) < 0.6 if is_padded else None
    found = []
    for run in (aligned_attention, dense_aligned_attention):
        y = run(q, k, v, window=window, mask=mask)
        found.append([y, *torch.autograd.grad(y.sin().sum(), [q, k, v])])
    torch.testing.assert_close(*found, **CLOSE)
    needed = sum(abs(i - j) < window for i in range(M) for j in range(N))
    assert aligned_pairs(M, N, window, decoding=False)[1] == needed


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_heads": 2, "n_routed_heads": 3}, "n_routed_heads 3 exceeds n_heads 2"),
        ({"window": 0}, "greater than 0"),
    ],
)
def test_config_refuses(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RoutingTransfer.Config(**fields)
