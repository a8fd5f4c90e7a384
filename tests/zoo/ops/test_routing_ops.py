"""Routing's list of clusters cut into blocks is attention to the last members of each token's own cluster."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.causality import causality_leak, vectors
from zoo.ops import router, routing, routing_dense
from zoo.ops.shaw import Relative
from zoo.ops.strided import strided_attention, strided_pairs
from zoo.ops.top_w import top_w_attention

SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
LENGTHS = pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 37, 63, 64, 65])  # blocks have 32 at least
PADDINGS = ("none", "right", "left", "holes", "all_of_one_row")
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
CLOSE_GRADIENT = {"rtol": 1e-10, "atol": 1e-11}


def heads(length: int, *, width: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    q, k, v = torch.randn(3, 2, 2, length, width, generator=generator, dtype=torch.float64).unbind()
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def centroids(n_clusters: int, *, width: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(n_clusters)
    return torch.randn(2, n_clusters, width, generator=generator, dtype=torch.float64)


def tables(max_rel: int, *, width: int = 3) -> Relative:
    generator = torch.Generator().manual_seed(max_rel)
    both = torch.randn(2, 2 * max_rel + 1, width, generator=generator, dtype=torch.float64)
    return Relative(*(t.requires_grad_() for t in both))


def padding(kind: str, length: int) -> Tensor | None:
    position = torch.arange(length)
    return {
        "none": None,
        "right": position < torch.tensor([[length], [max(1, length // 2)]]),
        "left": position >= torch.tensor([[0], [length // 2]]),
        "holes": (position % 3 != 1).expand(2, length),
        "all_of_one_row": position < torch.tensor([[length], [0]]),
    }[kind]


def clusters_of(q: Tensor, n_clusters: int, mask: Tensor | None = None) -> Tensor:
    scores = router.router_scores(router.normalised(q.detach()), centroids(n_clusters))
    return router.nearest(scores, mask)


def expect_equal(got: Tensor, want: Tensor, inputs: list[Tensor], keep: Tensor | None) -> None:
    """Values and gradients at real tokens."""
    real = torch.ones(()) if keep is None else keep[:, None, :, None]
    torch.testing.assert_close(got * real, want * real, **CLOSE)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype) * real
    gradients = [torch.autograd.grad((y * weight).sum(), inputs) for y in (got, want)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, **CLOSE_GRADIENT)


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
@pytest.mark.parametrize("stride", [1, 5, 32, 64])
def test_strides_equal_the_definition(length: int, kind: str, stride: int, causal: bool) -> None:
    q, k, v = heads(length)
    mask = padding(kind, length)
    got, want = (
        attend(q, k, v, stride=stride, causal=causal, mask=mask)
        for attend in (strided_attention, routing_dense.strided_attention)
    )
    expect_equal(got, want, [q, k, v], mask)
    assert got.isfinite().all()


@SIDES
@LENGTHS
@pytest.mark.parametrize("stride", [1, 5, 40])
def test_strided_pairs_are_counted(length: int, stride: int, causal: bool) -> None:
    lag = torch.arange(length)[:, None] - torch.arange(length)
    inside = (lag % stride == 0) & (lag >= 0 if causal else True)
    done, needed = strided_pairs(length, stride, causal=causal)
    assert needed == int(inside.sum())
    assert done == int((lag % stride == 0).sum())  # whole columns: the kernel masks inside them


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


@LENGTHS
@pytest.mark.parametrize("kind", PADDINGS)
@pytest.mark.parametrize("window", [1, 5, 40])
def test_top_w_equals_the_definition(length: int, kind: str, window: int) -> None:
    q, k, v = heads(length)
    mask = padding(kind, length)
    scores = [router.router_scores(router.normalised(t.detach()), centroids(4)) for t in (q, k)]
    for relative in (None, tables(3)):
        for q_scores, k_scores, causal in ((*scores, False), (scores[0], scores[0], True)):
            got, want = (
                attend(
                    q, k, v, q_scores, k_scores, window=window, causal=causal, mask=mask, relative=relative
                )
                for attend in (top_w_attention, routing_dense.top_w_attention)
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


class TopW(nn.Module):
    """Published routing, used causally: x is query, key and value, and the members are sorted by position."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.randn(2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        q = x.unflatten(-1, (2, 4)).transpose(1, 2)
        scores = router.router_scores(router.normalised(q), self.centroids)
        y = top_w_attention(q, q, q, scores, scores, window=6, causal=True)
        return y.transpose(1, 2).flatten(2)


class Strict(TopW):
    def forward(self, x: Tensor) -> Tensor:
        q = x.unflatten(-1, (2, 4)).transpose(1, 2)
        return routing.causal_routing(q, q, q, self.centroids, window=6).transpose(1, 2).flatten(2)


def test_leak_detected_for_topk() -> None:
    """No gradient comes from the future, and yet the future decides who is read: the gate must see that."""
    module = TopW().double()
    x = torch.randn(1, 33, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0, 8, 20):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(module(x)[0, : t + 1].sum(), x)
        assert not gradient[0, t + 1 :].any()
    leak = causality_leak(module, vectors(8))
    assert leak is not None
    assert leak.what == "future"
    assert causality_leak(Strict(), vectors(8), lengths=(2, 7, 16, 33, 65)) is None


def test_unshared_rank_mask_refused() -> None:
    """Unshared queries and keys have two lists of members, whose ranks no causal mask can compare."""
    q, k, v = heads(9)
    scores = [router.router_scores(router.normalised(t), centroids(2)) for t in (q, k)]
    with pytest.raises(AssertionError, match="one list"):
        top_w_attention(q, k, v, *scores, window=3, causal=True)


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


def picks(*rows: list[int], length: int = 4) -> Tensor:
    """Scores (2, 2, L, C) by which centroid c picks the tokens of row c first."""
    scores = torch.zeros(length, len(rows), dtype=torch.float64)
    for c, row in enumerate(rows):
        scores[row, c] = 1.0
    return scores.expand(2, 2, length, len(rows))


def test_unassigned_zero() -> None:
    q, k, v = heads(4)
    scores = picks([0, 1], [1, 2])
    y = top_w_attention(q, k, v, scores, scores, window=2)
    assert not y[:, :, 3].any()
    assert y[:, :, :3].all()


@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_multi_mean(damping: float) -> None:
    """A token of two clusters gets the mean of what it reads in each, damped in the official form."""
    q, k, v = (t.detach() for t in heads(4))
    scores = picks([0, 1], [1, 2])
    y = top_w_attention(q, k, v, scores, scores, window=2, damping=damping)

    def read(i: int, members: list[int]) -> Tensor:
        logits = torch.einsum("bhk,bhnk->bhn", q[:, :, i], k[:, :, members]) * 3**-0.5
        return torch.einsum("bhn,bhnk->bhk", logits.softmax(-1), v[:, :, members])

    torch.testing.assert_close(y[:, :, 0], read(0, [0, 1]) / (1 + damping), **CLOSE)
    torch.testing.assert_close(y[:, :, 1], (read(1, [0, 1]) + read(1, [1, 2])) / (2 + damping), **CLOSE)


def test_tie_free_topk_parity() -> None:
    """Distinct scores, so that no backend has a choice: the members are the ``window`` best, by position."""
    q, k, v = (t.detach() for t in heads(11))
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(11, generator=generator) for _ in range(12)]).view(2, 2, 3, 11)
    scores = order.transpose(-1, -2).double()  # (2, 2, L, C), whole numbers
    y = top_w_attention(q, k, v, scores, scores, window=4, causal=True)
    total, count = torch.zeros_like(v), torch.zeros(2, 2, 11, 1, dtype=torch.float64)
    for b, h, c in itertools.product(range(2), range(2), range(3)):
        members = sorted(range(11), key=lambda i: -scores[b, h, i, c].item())[:4]
        for i in sorted(members):
            seen = [j for j in sorted(members) if j <= i]
            weights = (k[b, h, seen] @ q[b, h, i] * 3**-0.5).softmax(0)
            total[b, h, i] += weights @ v[b, h, seen]
            count[b, h, i] += 1
    torch.testing.assert_close(y, total / count.clamp(min=1), **CLOSE)
    in_fp32 = top_w_attention(*(t.float() for t in (q, k, v, scores, scores)), window=4)
    in_fp64 = top_w_attention(q, k, v, scores, scores, window=4)
    torch.testing.assert_close(in_fp32.double(), in_fp64, rtol=1e-4, atol=1e-5)


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
