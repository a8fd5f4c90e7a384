"""The published selection: each centroid's nearest tokens, ties, means, and the leak that it is."""

from __future__ import annotations

import itertools

import pytest
import torch
from head_cases import PADDINGS, heads, padding
from routing_cases import CLOSE, LENGTHS, centroids, expect_equal, tables
from torch import Tensor, nn

from zoo.causality import causality_leak, vectors
from zoo.ops import router, routing, routing_dense
from zoo.ops.top_w import top_w_attention


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
