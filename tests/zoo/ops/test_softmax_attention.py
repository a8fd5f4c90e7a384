"""Folded windows and hidden keys give what dense masked softmax gives, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.softmax_attention import (
    block_layout,
    dense_attention,
    full_attention,
    pairs_computed,
    pairs_needed,
    sliding_attention,
)

LENGTHS = (1, 2, 31, 32, 33, 64, 67)
WINDOWS = (None, 1, 2, 5, 33, 66, 100)


def heads(length: int, *, n_heads: int = 4, n_kv: int = 2, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    sizes = (n_heads, n_kv, n_kv)
    return tuple(  # type: ignore[return-value]
        torch.randn(2, h, length, width, generator=generator, dtype=torch.float64).requires_grad_()
        for h in sizes
    )


def fast(q: Tensor, k: Tensor, v: Tensor, window: int | None, causal: bool, mask: Tensor | None) -> Tensor:
    if window is None:
        return full_attention(q, k, v, causal=causal, mask=mask)
    return sliding_attention(q, k, v, window=window, causal=causal, mask=mask)


def masks(length: int) -> dict[str, Tensor | None]:
    position = torch.arange(length)
    return {
        "none": None,
        "right": position < torch.tensor([[length], [max(1, length // 2)]]),
        "left": position >= torch.tensor([[0], [length // 3]]),
        "holes": (position % 3 != 1).expand(2, length),
    }


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("padding", ["none", "right", "left", "holes"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_dense(length: int, window: int | None, padding: str, causal: bool) -> None:
    mask = masks(length)[padding]
    tensors = heads(length)
    real = torch.ones(2, length, dtype=torch.bool) if mask is None else mask
    weight = torch.randn(2, 4, length, 3, dtype=torch.float64) * real[:, None, :, None]
    got = fast(*tensors, window, causal, mask)
    want = dense_attention(*tensors, window=window, causal=causal, mask=mask)
    torch.testing.assert_close(
        got * real[:, None, :, None], want * real[:, None, :, None], rtol=1e-12, atol=1e-12
    )
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), tensors),
        torch.autograd.grad((want * weight).sum(), tensors),
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_a_sequence_of_padding_alone_stays_finite(window: int | None, causal: bool) -> None:
    tensors = heads(40)
    y = fast(*tensors, window, causal, torch.zeros(2, 40, dtype=torch.bool))
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), tensors))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_a_constant_value_comes_back(causal: bool) -> None:
    q, k, v = heads(50)
    y = sliding_attention(q, k, torch.ones_like(v), window=7, causal=causal)
    torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", LENGTHS)
def test_pairs_needed_counts_the_pattern(length: int, window: int | None, causal: bool) -> None:
    i = torch.arange(length)
    distance = i[:, None] - i
    seen = (distance >= 0) if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        seen = seen & (distance.abs() < window)
    assert pairs_needed(length, window, causal=causal) == int(seen.sum())
    assert pairs_needed(length, window, causal=causal) <= pairs_computed(length, window, causal=causal)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("padding", ["none", "right"])
def test_no_tensor_of_all_pairs(padding: str, causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At L = 512 and w = 16, the attention calls see blocks, and masks no larger than the blocks."""
    calls: list[tuple[torch.Size, torch.Size, torch.Size]] = []
    original = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor, enable_gqa: bool) -> Tensor:
        calls.append((q.shape, k.shape, attn_mask.shape))
        return original(q, k, v, attn_mask=attn_mask, enable_gqa=enable_gqa)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    sliding_attention(*heads(512), window=16, causal=causal, mask=masks(512)[padding])
    n, size, span = block_layout(512, 16, causal=causal)
    assert calls == [((2 * n, 4, size, 3), (2 * n, 2, span, 3), (2 * n, 1, size, span))]
    assert n * size * span == pairs_computed(512, 16, causal=causal) < 512 * 512 // 5
