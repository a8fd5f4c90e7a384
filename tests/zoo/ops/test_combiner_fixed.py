"""Combiner's blocked attention is softmax attention over tokens and span summaries."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from head_cases import PADDINGS, SIDES, heads, padding
from torch import Tensor

from zoo.ops.combiner_fixed import Fixed, fixed_attention
from zoo.ops.combiner_pattern import Tokens
from zoo.ops.combiner_summary import Summary


def matrix(length: int, span: int, *, causal: bool) -> Tensor:
    """The (H, L, L) matrix that the mixer multiplies values with: it is linear in v."""
    q, k, _ = heads(length)
    v = torch.eye(length, dtype=torch.float64).expand(2, 2, length, length)
    width = max(length, 3)
    q, k = (F.pad(t, (0, width - 3)) * (width / 3) ** 0.25 for t in (q, k))  # same logits at another width
    return fixed_attention(q, k, F.pad(v, (0, width - length)), span=span, causal=causal)[0, ..., :length]


def augmented_attention(
    q: Tensor, k: Tensor, v: Tensor, *, span: int, causal: bool, mask: Tensor | None = None
) -> Tensor:
    return Fixed(span, causal).reference(Tokens(q, k, v, q), Summary("identity-max", 3), mask)


@SIDES
@pytest.mark.parametrize("kind", PADDINGS)
@pytest.mark.parametrize("span", [1, 2, 5, 8, 40])
@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17, 31])
def test_augmented_kv(length: int, span: int, kind: str, causal: bool) -> None:
    tensors, mask = heads(length), padding(kind, length)
    keep = torch.ones(2, 1, length, 1) if mask is None else mask[:, None, :, None]
    got = fixed_attention(*tensors, span=span, causal=causal, mask=mask) * keep
    want = augmented_attention(*tensors, span=span, causal=causal, mask=mask) * keep
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    weight = torch.randn_like(got)
    gradients = [torch.autograd.grad((y * weight).sum(), tensors) for y in (got, want)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@SIDES
def test_gradcheck(causal: bool) -> None:
    mask = padding("holes", 7)
    assert torch.autograd.gradcheck(
        lambda *t: fixed_attention(*t, span=3, causal=causal, mask=mask), heads(7)
    )


@SIDES
@pytest.mark.parametrize("span", [23, 24, 100], ids=["span_is_L", "span_gt_L", "span_far_gt_L"])
def test_span_ge_L(span: int, causal: bool) -> None:
    q, k, v = heads(23)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(
        fixed_attention(q, k, v, span=span, causal=causal), want, rtol=1e-12, atol=1e-13
    )


@SIDES
@pytest.mark.parametrize("length", [1, 2, 23])
def test_span_1(length: int, causal: bool) -> None:
    q, k, v = heads(length)
    want = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(fixed_attention(q, k, v, span=1, causal=causal), want, rtol=1e-12, atol=1e-13)


@SIDES
@pytest.mark.parametrize("length", [1, 12, 13])
def test_rowsum1(length: int, causal: bool) -> None:
    rows = matrix(length, 4, causal=causal).sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=1e-12, atol=0)


@pytest.mark.parametrize("length", [1, 12, 13])
def test_support_exact(length: int) -> None:
    everything = torch.ones(length, length, dtype=torch.bool)
    assert torch.equal(matrix(length, 4, causal=True)[0] > 0, everything.tril())
    assert torch.equal(matrix(length, 4, causal=False)[0] > 0, everything)


@SIDES
def test_rank1_blocks(causal: bool) -> None:
    blocks = matrix(16, 4, causal=causal)[0].view(4, 4, 4, 4).transpose(1, 2)  # (row span, column span, 4, 4)
    for i in range(4):
        for j in range(i if causal else 4):
            singular = torch.linalg.svdvals(blocks[i, j])
            assert (singular[1] < 1e-14) == (i != j), f"block ({i}, {j})"
        assert torch.linalg.svdvals(blocks[i, i])[1] > 1e-6


@SIDES
def test_uniform_q0(causal: bool) -> None:
    """Without a query every token and every summary counts alike: 1 / (direct tokens + spans read)."""
    q, k, v = heads(11)
    v = torch.eye(11, dtype=torch.float64).expand(2, 2, 11, 11)
    q, k = torch.zeros(2, 2, 11, 11, dtype=torch.float64), F.pad(k, (0, 8))
    own = fixed_attention(q, k, v, span=4, causal=causal).diagonal(dim1=-2, dim2=-1)
    i = torch.arange(11)
    entries = (i % 4 + 1 + i // 4) if causal else torch.tensor([4] * 8 + [3] * 3) + 2
    torch.testing.assert_close(own[0, 0], 1 / entries.double(), rtol=1e-12, atol=0)


@SIDES
def test_no_double_scale(causal: bool) -> None:
    """Queries times c is keys times c: the logits, direct, summary and local, carry the scale once."""
    q, k, v = heads(19)
    a, b = (fixed_attention(c * q, d * k, v, span=4, causal=causal) for c, d in ((3.0, 1.0), (1.0, 3.0)))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    wide = (F.pad(t, (0, 9)) for t in (2 * q, k, v))  # 4 x the width halves the scale
    same = fixed_attention(*wide, span=4, causal=causal)[..., :3]
    torch.testing.assert_close(same, fixed_attention(q, k, v, span=4, causal=causal), rtol=1e-12, atol=1e-13)


def test_own_span_excluded() -> None:
    """Bidirectionally the own span's summary is not read beside its tokens: of two, only the other one."""
    q, k, v = heads(8)
    late = v.detach().clone()
    late[:, :, 4:] += 7.0
    first = [fixed_attention(q, k, t, span=4, causal=False)[:, :, :4] for t in (v, late)]
    added = first[1] - first[0]  # weight on the other span's summary, times 7
    scores = torch.cat([q[:, :, :4] @ k[:, :, :4].mT, q[:, :, :4] @ k[:, :, 4:].amax(2, keepdim=True).mT], -1)
    weight = (scores * 3**-0.5).softmax(-1)[..., -1:]
    torch.testing.assert_close(added, (7 * weight).expand_as(added), rtol=1e-11, atol=1e-12)


@SIDES
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 20])
def test_perturbing_the_future(length: int, causal: bool) -> None:
    tensors = [t.detach() for t in heads(length)]
    moved = []
    for t in range(length - 1):
        for scale in (1.0, 100.0):
            other = [x.clone() for x in tensors]
            for x, y in zip(other, heads(length, seed=1)):
                x[1, :, t + 1 :] = scale * y.detach()[1, :, t + 1 :]
            before, after = (fixed_attention(*x, span=4, causal=causal) for x in (tensors, other))
            assert torch.equal(before[0], after[0])
            moved.append((before[1, :, : t + 1] - after[1, :, : t + 1]).abs().amax())
    if length > 1:
        assert (max(moved) < 1e-14) == causal


@SIDES
@pytest.mark.parametrize("n_pads", [1, 3, 4, 5, 20])
def test_padding_changes_nothing(n_pads: int, causal: bool) -> None:
    tensors = [t.detach() for t in heads(14)]
    padded = [torch.cat([t, 1e3 * torch.randn(2, 2, n_pads, 3, dtype=torch.float64)], 2) for t in tensors]
    mask = (torch.arange(14 + n_pads) < 14).expand(2, -1)
    got = fixed_attention(*padded, span=4, causal=causal, mask=mask)[:, :, :14]
    torch.testing.assert_close(got, fixed_attention(*tensors, span=4, causal=causal), rtol=1e-12, atol=1e-13)


@SIDES
@pytest.mark.parametrize("kind", PADDINGS)
def test_padding_alone_stays_finite(kind: str, causal: bool) -> None:
    tensors = heads(13)
    y = fixed_attention(*tensors, span=4, causal=causal, mask=padding(kind, 13))
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), tensors))


def test_softmax_is_fp32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.softmax

    def watched(x: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
        y = original(x, dim=dim, dtype=dtype)
        seen.append(y.dtype)
        return y

    monkeypatch.setattr(torch, "softmax", watched)
    q, k, v = (t.detach().float() for t in heads(33))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = fixed_attention(q, k, v, span=8, causal=True)
    assert seen == [torch.float32, torch.float32]
    torch.testing.assert_close(y.float(), fixed_attention(q, k, v, span=8, causal=True), rtol=0.05, atol=0.05)


@SIDES
def test_no_tensor_of_all_pairs(causal: bool) -> None:
    """The largest tensor saved for backward has L (s + n) entries per head."""
    largest = 0

    def watch(t: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, t.numel())
        return t

    tensors = heads(512)
    with torch.autograd.graph.saved_tensors_hooks(watch, lambda t: t):
        fixed_attention(*tensors, span=16, causal=causal, mask=padding("right", 512))
    assert largest == 2 * 2 * 512 * (16 + 32)
