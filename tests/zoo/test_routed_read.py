"""Routed read: its blocks equal the definition, it stands in FIT, and its centroids learn from the source."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import compiler
from archspec import Site
from compiler import compile_spec
from zoo.contract import MixerOutput
from zoo.ops.routed_cross import dense_routed_cross_attention, query_blocks, routed_cross_attention
from zoo.ops.router import nearest, normalised, router_scores
from zoo.transfers.read import Read
from zoo.transfers.routed_read import RoutedRead

CLOSE = {"rtol": 1e-12, "atol": 1e-13}
HYBRID = Path(__file__).parents[2] / "specs" / "hybrids" / "fit_routed_reads.yaml"


def heads(n: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * seed + n)
    return torch.randn(2, 2, n, 3, generator=generator, dtype=torch.float64).requires_grad_()


def centroids(n_clusters: int) -> Tensor:
    return torch.randn(2, n_clusters, 3, generator=torch.Generator().manual_seed(n_clusters)).double()


@pytest.mark.parametrize("n_queries", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("n_source", [1, 6, 19])
@pytest.mark.parametrize("n_clusters", [1, 3, 9])
@pytest.mark.parametrize("window", [1, 4, 30])
def test_blocks_equal_the_definition(n_queries: int, n_source: int, n_clusters: int, window: int) -> None:
    q, k, v = heads(n_queries, seed=0), heads(n_source, seed=1), heads(n_source, seed=2)
    own = nearest(router_scores(normalised(q), centroids(n_clusters)))
    scores = router_scores(normalised(k), centroids(n_clusters))
    half = torch.arange(n_source) < torch.tensor([[n_source], [(n_source + 1) // 2]])
    for mask in (None, half, half & torch.tensor([[True], [False]])):
        got, want = (
            attend(q, k, v, own, scores, window=window, mask=mask)
            for attend in (routed_cross_attention, dense_routed_cross_attention)
        )
        torch.testing.assert_close(got, want, **CLOSE)
        weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(3), dtype=got.dtype)
        gradients = [torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (got, want)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("n_queries", [1, 5, 16, 31])
@pytest.mark.parametrize("n_clusters", [1, 4, 40])
@pytest.mark.parametrize("crowded", [True, False])
def test_blocks_hold_every_query(n_queries: int, n_clusters: int, crowded: bool) -> None:
    """Also where all join one cluster, and where each is alone; less than twice as many places as queries."""
    n, size = query_blocks(n_queries, n_clusters)
    assert n_queries <= n * size < 2 * n_queries + size
    q, k = heads(n_queries, seed=0).detach(), heads(5, seed=1).detach()
    own = torch.arange(n_queries).expand(2, 2, -1) % n_clusters
    own = torch.full_like(own, n_clusters - 1) if crowded else own
    scores = torch.randn(2, 2, 5, n_clusters, dtype=torch.float64)
    args = (q, k, k, own, scores)
    got, want = (f(*args, window=2) for f in (routed_cross_attention, dense_routed_cross_attention))
    torch.testing.assert_close(got, want, **CLOSE)


def build(n_clusters: int, window: int) -> RoutedRead:
    torch.manual_seed(0)
    config = RoutedRead.Config(n_heads=2, n_clusters=n_clusters, cluster_window=window, decay=0.5)
    return RoutedRead(config, Site(12, 32, causal=False), 8).double()


def test_one_cluster_that_holds_the_source_is_a_plain_read() -> None:
    routed = build(1, 32)
    plain = Read(Read.Config(n_heads=2), Site(12, 32, causal=False), 8).double()
    plain.load_state_dict({n: t for n, t in routed.state_dict().items() if n != "centroids"})
    queries, source = torch.randn(2, 5, 12).double(), torch.randn(2, 9, 8).double()
    mask = torch.arange(9) < torch.tensor([[9], [0]])
    torch.testing.assert_close(routed(queries, source).y, plain(queries, source), **CLOSE)
    torch.testing.assert_close(routed(queries, source, mask).y, plain(queries, source, mask), **CLOSE)


def test_no_query_has_a_say_in_what_another_reads() -> None:
    """So it may write to the tokens of a causal model, and a padded query changes nothing."""
    transfer = build(3, 2)
    queries, source = torch.randn(1, 11, 12).double(), torch.randn(1, 9, 8).double()
    before = transfer(queries, source).y
    changed = torch.cat([queries[:, :4], 100 * torch.randn(1, 7, 12).double()], dim=1)
    torch.testing.assert_close(transfer(changed, source).y[:, :4], before[:, :4], **CLOSE)


def test_centroids_follow_the_keys_of_real_tokens() -> None:
    transfer, source = build(3, 4), torch.randn(2, 9, 8).double()
    queries, mask = torch.randn(2, 5, 12).double(), torch.arange(9) < torch.tensor([[9], [4]])
    out = transfer(queries, source, mask)
    assert isinstance(out, MixerOutput)
    assert out.statistics[..., -1].sum(1).tolist() == [13, 13]
    start = transfer.centroids.clone()
    seen = normalised(transfer.k(transfer.source_norm(source)).unflatten(-1, (2, 4)).transpose(1, 2))
    own = (seen[:, 1] @ normalised(start[1]).T).argmax(-1)
    transfer.apply_statistics(out.statistics)
    for c in range(3):
        members = seen[:, 1][mask & (own == c)]
        want = (start[1, c] + members.mean(0)) / 2 if len(members) else start[1, c]
        torch.testing.assert_close(transfer.centroids[1, c], want, **CLOSE)
    assert out.aux_loss > 0
    quiet = transfer.eval()(queries, source, mask)
    assert not quiet.statistics.any()
    assert not quiet.aux_loss


def test_bfloat16_leaves_the_centroids_in_fp32() -> None:
    transfer = build(3, 4).float().bfloat16()
    assert transfer.q.weight.dtype == torch.bfloat16
    assert transfer.centroids.dtype == torch.float32


def test_fit_reads_and_writes_with_it() -> None:
    """In a causal model, which the gate tests; one training step moves the centroids of both transfers."""
    spec = compiler.load_spec(HYBRID)
    model = compile_spec(spec)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(spec.input.vocab_size, (2, spec.input.seq_len), generator=draw)
    out = model.train().outputs(ids)
    transfers = {name for name in out.statistics if name.endswith((".read", ".write"))}
    assert len(transfers) == 4
    assert out.aux_loss is not None
    assert out.aux_loss > 0
    out.logits.sum().backward()
    model.apply_statistics(out.statistics)
    for name in transfers:
        assert out.statistics[name][..., -1].sum() > 0
