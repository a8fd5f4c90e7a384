"""Softmax attention by ``scaled_dot_product_attention``: full, or in a sliding window folded into blocks.

Shapes: B batch, H query heads, G key/value heads (G divides H, each serves H / G neighbouring query heads),
L length, K d_head. A mask is boolean (B, L), True where a key is a real token. A window of w keys counts the
query itself: query i reads key j if i - w < j <= i when causal, else if |i - j| < w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = (
    -1e30
)  # a score that no softmax weight survives; finite, so a query that sees nothing real stays finite


def full_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None = None, block: int = 1
) -> Tensor:
    """(B, H, L, K), (B, G, L, K) twice -> (B, H, L, K), without a mask of L x L entries.

    Only where causality goes by blocks of positions (FIT's latents, which are few) is there one.
    Padding keys get their score through one more channel: 1 in the query times ``HIDDEN`` in the key.
    """
    gqa = _is_grouped(q, k)
    by_blocks = past_blocks(q.shape[2], block, q.device) if causal and block > 1 else None
    by_token = causal and by_blocks is None
    if mask is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=by_blocks, is_causal=by_token, enable_gqa=gqa
        )
    d_head, real = q.shape[-1], mask[:, None, :, None]
    hidden = HIDDEN if q.dtype != torch.float16 else torch.finfo(torch.float16).min
    score = torch.zeros_like(k[..., :1]).masked_fill(~real, hidden)
    q = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1)
    k = torch.cat([k.masked_fill(~real, 0.0), score], dim=-1)
    y = F.scaled_dot_product_attention(
        q, k, F.pad(v, (0, 1)), attn_mask=by_blocks, is_causal=by_token, enable_gqa=gqa, scale=d_head**-0.5
    )
    return y[..., :d_head]


def past_blocks(length: int, block: int, device: torch.device) -> Tensor:
    """(L, L), True where the key's block of positions is the query's or an earlier one."""
    index = torch.arange(length, device=device) // block
    return index[:, None] >= index


def sliding_attention(
    q: Tensor, k: Tensor, v: Tensor, *, window: int, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """(B, H, L, K), (B, G, L, K) twice -> (B, H, L, K): blocks of queries, each with the keys it reaches."""
    B, H, L, K = q.shape
    if window >= L:
        return full_attention(q, k, v, causal=causal, mask=mask)
    n, size, span = block_layout(L, window, causal=causal)
    device = q.device
    query = torch.arange(size, device=device)
    key = torch.arange(span, device=device) - (window - 1)  # relative to the block's first query
    ahead = key - query[:, None]  # (size, span)
    seen = (ahead > -window) & (ahead < (1 if causal else window))
    position = torch.arange(n, device=device)[:, None] * size + key  # (n, span)
    inside = (position >= 0) & (position < L)
    position = position.clamp(0, L - 1).flatten()
    if mask is None:
        real = inside.expand(B, n, span)
    else:
        real = mask.index_select(1, position).view(B, n, span) & inside
    allowed = seen & (
        real[:, :, None, :] | (ahead == 0)
    )  # (B, n, size, span); itself, so that no row is empty

    def keys_of_blocks(t: Tensor) -> Tensor:
        return t.index_select(2, position).view(B, -1, n, span, K).transpose(1, 2).flatten(0, 1)

    folded = F.pad(q, (0, 0, 0, n * size - L)).view(B, H, n, size, K).transpose(1, 2).flatten(0, 1)
    y = F.scaled_dot_product_attention(
        folded,  # (B n, H, size, K)
        keys_of_blocks(k),  # (B n, G, span, K)
        keys_of_blocks(v),
        attn_mask=allowed.flatten(0, 1)[:, None],
        enable_gqa=_is_grouped(q, k),
    )
    return y.view(B, n, H, size, K).transpose(1, 2).reshape(B, H, n * size, K)[:, :, :L]


def _is_grouped(q: Tensor, k: Tensor) -> bool:
    return bool(q.shape[1] != k.shape[1])  # under jit tracing, where counters work, sizes are tensors


def block_layout(length: int, window: int, *, causal: bool) -> tuple[int, int, int]:
    """Blocks, queries in a block and keys beside a block in ``sliding_attention``, for window < length.

    The blocks are as even as they can be.
    """
    n = -(-length // block_size(window))
    size = -(-length // n)
    reach = window - 1
    return n, size, reach + size + (0 if causal else reach)


def block_size(window: int) -> int:
    """The most queries of a block: half a window is the fastest measured; under 32 make small products."""
    return max(32, -(-window // 2))


def pairs_computed(length: int, window: int | None, *, causal: bool) -> int:
    """Query-key pairs that the code above multiplies for one head of one sequence."""
    if window is None or window >= length:
        return length * length
    n, size, span = block_layout(length, window, causal=causal)
    return n * size * span


def pairs_needed(length: int, window: int | None, *, causal: bool) -> int:
    """Query-key pairs inside the pattern: what an ideal kernel multiplies."""
    w = length if window is None else min(window, length)
    one_side = w * length - w * (w - 1) // 2
    return one_side if causal else 2 * one_side - length


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int | None,
    causal: bool,
    mask: Tensor | None = None,
    block: int = 1,
) -> Tensor:
    """The definition of both: scores of all pairs, the forbidden ones taken out, softmax, weighted sum."""
    L, K = q.shape[-2:]
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))  # (B, H, L, K)
    i = torch.arange(L, device=q.device)
    distance = i[:, None] - i
    allowed = i[:, None] // block >= i // block if causal else torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        allowed = allowed & (distance.abs() < window)
    if mask is not None:
        allowed = allowed & (mask[:, None, None, :] | (distance == 0))  # a padded query reads itself
    scores = (q @ k.transpose(-1, -2) * K**-0.5).masked_fill(~allowed, float("-inf"))
    return scores.softmax(dim=-1) @ v
