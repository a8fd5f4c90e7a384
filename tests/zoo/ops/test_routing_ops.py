"""Routing's list of clusters cut into blocks is attention to the last members of each token's own cluster."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from head_cases import PADDINGS, SIDES, heads, padding
from routing_cases import CLOSE, CLOSE_GRADIENT, LENGTHS, centroids, clusters_of, expect_equal, tables
from torch import Tensor

from zoo.ops import router, routing, routing_dense
from zoo.ops.shaw import Relative
from zoo.ops.top_w import top_w_attention


@SIDES
@LENGTHS
@pytest.mark.parametrize("kind", PADDINGS)
@pytest.mark.parametrize("window", [1, 5, 40])
def test_clusters_equal_the_definition(length: int, kind: str, window: int, causal: bool) -> None:
    q, k, v = heads(length)
    mask, relative = padding(kind, length), tables(3)
    cluster = clusters_of(q, 4, mask)
    for tables_ in (None, relative):
        for alone in (False, True):
            got, want = (
                ops.cluster_attention(
                    q, k, v, cluster, n_clusters=4, window=window, causal=causal, self_if_alone=alone,
                    relative=tables_,
                )
                for ops in (routing, routing_dense)
            )  # fmt: skip
            expect_equal(got, want, [q, k, v, *(tables_ or ())], mask)


@SIDES
@LENGTHS
@pytest.mark.parametrize("kind", PADDINGS)
def test_windows_equal_the_definition(length: int, kind: str, causal: bool) -> None:
    q, k, v = heads(length)
    mask = padding(kind, length)
    for relative in (None, tables(3)):
        got, want = (
            ops.window_attention(q, k, v, window=6, causal=causal, mask=mask, relative=relative)
            for ops in (routing, routing_dense)
        )
        expect_equal(got, want, [q, k, v, *(relative or ())], mask)


@SIDES
@LENGTHS
def test_strict_equals_bruteforce(length: int, causal: bool) -> None:
    """Token by token: the nearest centroid by hand, the last members of its cluster, softmax, weighted sum."""
    window, mu = 5, centroids(3)
    q, k, v = (t.detach() for t in heads(length))
    got = routing.causal_routing(q, k, v, mu, window=window, causal=causal)
    for b in range(2):
        for h in range(2):
            chosen = [
                int((router.normalised(x) @ router.normalised(mu[h]).T).argmax()) for x in q[b, h].unbind()
            ]
            for i in range(length):
                members = [j for j in range(length) if chosen[j] == chosen[i]]
                rank = members.index(i)
                seen = members[max(0, rank - window + 1) : rank + 1 if causal else rank + window]
                weights = (k[b, h, seen] @ q[b, h, i] * 3**-0.5).softmax(0)
                torch.testing.assert_close(got[b, h, i], weights @ v[b, h, seen], **CLOSE)


@SIDES
@LENGTHS
def test_single_cluster_full(length: int, causal: bool) -> None:
    """One cluster that nothing falls out of is full attention, in both selections where both exist."""
    q, k, v = heads(length)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    got = routing.causal_routing(q, k, v, centroids(1), window=length, causal=causal)
    torch.testing.assert_close(got, want, **CLOSE)
    scores = router.router_scores(router.normalised(q), centroids(1))
    got = top_w_attention(q, k, v, scores, scores, window=length, causal=causal)
    torch.testing.assert_close(got, want, **CLOSE)


@SIDES
@pytest.mark.parametrize("kind", PADDINGS)
def test_empty_row_guard(kind: str, causal: bool) -> None:
    """A token that sees nothing but itself, and a row of padding alone, stay finite, forward and backward."""
    q, k, v = heads(35)
    mask = padding(kind, 35)
    one_each = torch.arange(35).expand(2, 2, 35)
    y = routing.cluster_attention(
        q, k, v, one_each, n_clusters=35, window=4, causal=causal, self_if_alone=True
    )
    torch.testing.assert_close(y, v, **CLOSE)
    scores = router.router_scores(router.normalised(q), centroids(3))
    for y in (
        routing.causal_routing(q, k, v, centroids(3), window=4, causal=causal, mask=mask),
        top_w_attention(q, k, v, scores, scores, window=4, causal=causal, mask=mask),
        routing.window_attention(q, k, v, window=4, causal=causal, mask=mask, relative=tables(2)),
    ):
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (q, k, v)))


def test_alone_hides_itself_beside_others() -> None:
    q, k, v = (t.detach() for t in heads(4))
    cluster = torch.tensor([0, 0, 1, 0]).expand(2, 2, 4)
    y = routing.cluster_attention(q, k, v, cluster, n_clusters=2, window=2, causal=True, self_if_alone=True)
    want = torch.stack([v[:, :, 0], v[:, :, 0], v[:, :, 2], v[:, :, 1]], dim=2)
    torch.testing.assert_close(y, want, **CLOSE)


def test_ties() -> None:
    """Of equally near centroids the first one counts; equal tokens keep their order inside a cluster."""
    scores = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0], [3.0, 3.0, 3.0]])[None, None]
    assert router.nearest(scores)[0, 0].tolist() == [0, 1, 0]
    cluster = torch.tensor([[[1, 0, 1, 0, 1], [0, 0, 2, 0, 2]]])
    order = routing.by_cluster(cluster, n_clusters=2)
    assert order.rows[0].tolist() == [1, 3, 0, 2, 4, 5, 6, 8, 7, 9]
    assert order.start[0].tolist() == [0, 0, 2, 2, 2, 5, 5, 5, 8, 8]
    assert order.end[0].tolist() == [2, 2, 5, 5, 5, 8, 8, 8, 10, 10]
    assert order.rows[0, order.places[0]].tolist() == list(range(10))
    same = torch.ones(1, 2, 40, 3, dtype=torch.float64)
    v = torch.randn(1, 2, 40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = routing.causal_routing(same, same, v, centroids(3), window=2)
    torch.testing.assert_close(y[:, :, 1:], (v[:, :, 1:] + v[:, :, :-1]) / 2, **CLOSE)


@pytest.mark.parametrize("kind", PADDINGS)
def test_statistics_and_loss_equal_the_definition(kind: str) -> None:
    q = heads(23)[0]
    mask = padding(kind, 23)
    x, cluster = router.normalised(q), clusters_of(q, 4, mask)
    got, want = (ops.cluster_statistics(x, cluster, n_clusters=4) for ops in (router, routing_dense))
    torch.testing.assert_close(got, want, **CLOSE)
    n_real = 46 if mask is None else int(mask.sum())
    assert got[..., -1].sum(1).tolist() == [n_real, n_real]
    losses = [ops.commitment(x, cluster, centroids(4)) for ops in (router, routing_dense)]
    torch.testing.assert_close(*losses, **CLOSE)
    gradients = [torch.autograd.grad(loss, q, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(*gradients, **CLOSE_GRADIENT)


def test_router_is_in_fp32_under_autocast() -> None:
    q = heads(9)[0].detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = router.normalised(q.bfloat16())
        scores = router.router_scores(x, centroids(3))
    assert x.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores, router.router_scores(x, centroids(3)), rtol=0, atol=0)


def test_gradcheck() -> None:
    cluster = clusters_of(heads(7)[0], 2)
    assert torch.autograd.gradcheck(
        lambda *t: routing.cluster_attention(
            *t[:3], cluster, n_clusters=2, window=3, causal=True, relative=Relative(*t[3:])
        ),
        (*heads(7), *tables(2)),
    )


def test_no_tensor_of_all_pairs() -> None:
    """The largest tensor saved for backward grows with the length, not with its square."""
    largest = {}
    for length in (256, 512):
        sizes = [0]

        def watch(t: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(watch, lambda t: t):
            routing.causal_routing(*heads(length), centroids(8), window=16)
        largest[length] = max(sizes)
    assert largest[512] <= 2.1 * largest[256]
    assert largest[512] < 2 * 2 * 512 * 512 / 4
