"""Combiner's logsparse pattern: a Fenwick decomposition of the past (Ren et al. 2021, arXiv:2107.05768).

Cut the sequence into blocks of 2^l tokens at every level l below bit_length(L - 1). Token i reads, where bit
l of i is set, the block (i >> l) - 1 of level l: the left sibling of its own. These blocks are all of its
past, each token of it once. A block of one token (level 0) is read directly, as token i itself is, and the
others by their summary. Bidirectionally, which is ours, it reads the right sibling (i >> l) + 1 where bit l
is clear: the mirrored decomposition of the suffix in the same tree, so padding at the end changes nothing.

The fast path cuts the queries into base blocks of s = 2^b tokens, b at most 4. All queries of one read the
same blocks of the levels from b on, so a base block is attention to its tokens, its inner blocks' summaries
and one outer summary per level: a list of s + s/2 - 1 + (levels - b) entries (bidirectionally s - 2 inner
ones), some of them hidden.

Shapes: B batch, H heads, L length, K head width, n base blocks. Masks are (B, L), True at real tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.contract import State
from zoo.ops.combiner_pattern import Cache, Kept, SpanPattern, Tables, Tokens, Work
from zoo.ops.combiner_summary import Summary, bias_of, softmax, span_values

_BASE_LEVELS = 4


@dataclass(frozen=True)
class Logsparse(SpanPattern):
    """Blocks of all powers of two."""

    causal: bool

    def attend(self, tokens: Tokens, summary: Summary, mask: Tensor | None = None) -> Tensor:
        q, k, v, *_ = tokens
        return logsparse_attention(q, k, v, causal=self.causal, mask=mask, summary=summary)

    def tables(self, length: int, device: torch.device) -> Tables:
        i = torch.arange(length, device=device)
        direct = i[:, None] == i
        members, readers = [i[:0, None].bool().expand(0, length)], [i[:, None].bool()[:, :0]]
        for level in range((length - 1).bit_length()):
            block = torch.arange((length - 1 >> level) + 1, device=device)
            bit = (i >> level & 1).bool()[:, None]
            reads = bit & (block == (i >> level)[:, None] - 1)
            if not self.causal:
                reads = reads | (~bit & (block == (i >> level)[:, None] + 1))
            if level == 0:
                direct = direct | reads
            else:
                members.append(i >> level == block[:, None])
                readers.append(reads)
        return Tables(direct, torch.cat(members), torch.cat(readers, 1))

    def init_state(self, like: Tensor, x: Tensor, summary: Summary) -> State:
        """All keys and values; for each set bit of the number of tokens, highest first, its block's summary.

        A summary is what queries and keys pool to, and the value. Older keys are needed again: the number
        of tokens in the block that closes next doubles each time.
        """
        return {name: like.clone() for name in ("k", "v", "q_pool", "k_pool", "v_block")}

    def prefill(self, tokens: Tokens, summary: Summary) -> State:
        q, k, v, *_ = tokens
        L, scale = q.shape[2], q.shape[-1] ** -0.5
        f_q, f_k = summary.of_queries(q), summary.of_keys(k)
        pools, end = [(q[:, :, :0], k[:, :, :0], v[:, :, :0])], 0
        for level in reversed(range(L.bit_length())):
            if L >> level & 1:
                block = slice(end, end + (1 << level))
                end += 1 << level
                q_pool, k_pool = (summary.merged_all(f[:, :, block]) for f in (f_q, f_k))
                q_block = summary.divided(q_pool, 1 << level) * scale
                value = span_values(q_block.squeeze(2), k[:, :, block], v[:, :, block])
                pools.append((q_pool, k_pool, value[:, :, None]))
        q_pool, k_pool, v_block = (torch.cat(parts, 2) for parts in zip(*pools))
        return {"k": k, "v": v, "q_pool": q_pool, "k_pool": k_pool, "v_block": v_block}

    def step(self, tokens: Tokens, state: State, summary: Summary) -> tuple[Tensor, State]:
        q, k, v, *_ = tokens  # (B, H, 1, K)
        n, scale = int(state["k"].shape[2]), q.shape[-1] ** -0.5
        levels = [level for level in reversed(range(n.bit_length())) if n >> level & 1]
        n_blocks = len(levels) - n % 2  # the block of one token is read as it is
        k, v = torch.cat([state["k"], k], dim=2), torch.cat([state["v"], v], dim=2)
        sizes = torch.tensor([1 << level for level in levels[:n_blocks]], device=q.device)[:, None]
        k_block = summary.divided(state["k_pool"][:, :, :n_blocks], sizes.to(k.dtype))
        near = slice(n - n % 2, n + 1)
        logits = q @ torch.cat([k[:, :, near], k_block], dim=2).transpose(-1, -2) * scale
        values = torch.cat([v[:, :, near], state["v_block"][:, :, :n_blocks]], dim=2)
        y = softmax(logits).to(v.dtype) @ values

        # The blocks of the trailing ones of n close with this token into one; the others stay.
        level = (~n & n + 1).bit_length() - 1
        kept, size = len(levels) - level, 1 << level
        q_pool, k_pool = summary.of_queries(q), summary.of_keys(k[:, :, n:])
        for block in reversed(range(kept, len(levels))):
            q_pool = summary.merged(state["q_pool"][:, :, block : block + 1], q_pool)
            k_pool = summary.merged(state["k_pool"][:, :, block : block + 1], k_pool)
        value = v[:, :, n:]
        if level:
            q_block = summary.divided(q_pool, size).squeeze(2) * scale
            value = span_values(q_block, k[:, :, n + 1 - size :], v[:, :, n + 1 - size :])[:, :, None]
        closed = {"q_pool": q_pool, "k_pool": k_pool, "v_block": value}
        blocks = {name: torch.cat([state[name][:, :, :kept], new], 2) for name, new in closed.items()}
        return y, {"k": k, "v": v} | blocks

    def work(self, length: int) -> Work:
        levels = (length - 1).bit_length()
        b = min(_BASE_LEVELS, levels)
        n = math.ceil(length / (1 << b))
        pairs, listed, blocks, copies = 0, 1 << b, 0, 0
        needed = length
        for level in range(levels):
            size = 1 << level
            right = (length >> level + 1 << level) + max(0, length % (2 * size) - size)  # tokens, bit set
            left = size * _n_blocks(length, level, causal=True)  # tokens in blocks that they read
            needed += right if self.causal else right + left
            if level == 0:
                continue
            needed += left if self.causal else right + left
            n_blocks = (n << b) // size if level < b else _n_blocks(length, level, causal=self.causal)
            if level < b:
                n_blocks //= 2 if self.causal else 1
                listed += n_blocks // n
            else:
                listed += 1
            pairs += n_blocks * size
            blocks += (n << b) // size
            covered = n_blocks * size * (2 if self.causal else 1)
            copies += covered if covered != n << b else 0  # of keys, and of values
        pairs += (n << b) * listed
        masked = 0 if self.causal else 2 * (n << b) + blocks
        kept = Kept(2 * (n * listed + copies) + blocks, of_max=blocks + masked, of_features=2 * length)
        return Work(
            2 * pairs, 2 * needed, pairs, kept, features=2 * length, features_needed=2 * length
        )  # fmt: skip

    def step_work(self, n_tokens: int) -> Work:
        level = (~n_tokens & n_tokens + 1).bit_length() - 1
        pairs = n_tokens.bit_count() + 1 + ((1 << level) if level else 0)
        return Work(2 * pairs, 2 * pairs, pairs, features=2, features_needed=2)

    def cache(self, n_tokens: int) -> Cache:
        return Cache(2 * n_tokens + 3 * n_tokens.bit_count(), per_token=(2, 1))


def logsparse_attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool, summary: Summary, mask: Tensor | None = None
) -> Tensor:
    """q, k, v (B, H, L, K) -> (B, H, L, K); memory is L (s + s/2 + log L) logits per head."""
    B, H, L, K = q.shape
    L = int(L)  # under jit tracing sizes are tensors
    levels = (L - 1).bit_length()
    b = min(_BASE_LEVELS, levels)
    s = 1 << b
    n = math.ceil(L / s)
    q = q * K**-0.5
    f_q, f_k = summary.of_queries(q), summary.of_keys(k)
    same = f_q is q
    q, k, v = (_fitted(t, n * s) for t in (q, k, v))
    f_q, f_k = (q, k) if same else (_fitted(f_q, n * s), _fitted(f_k, n * s))
    real = mask
    if mask is None and not causal:  # causally nobody real reads a block with padding in it
        real = (torch.arange(n * s, device=q.device) < L)[None]
    if real is not None:
        real = _fitted(real[:, None, :, None], n * s)  # (B or 1, 1, n s, 1)

    step = 2 if causal else 1  # causally only left siblings are ever read
    keys, values, seen = [], [], []
    for level, (q_span, k_span, count) in enumerate(_pooled(f_q, f_k, real, summary, levels), 1):
        inner = level < b
        n_blocks = (n * s >> level) // step if inner else _n_blocks(L, level, causal=causal)

        def blocks(t: Tensor, size: int, n_blocks: int = n_blocks) -> Tensor:
            t = _fitted(t, n_blocks * step * size)
            return t.view(*t.shape[:2], n_blocks, step, size, t.shape[-1])[:, :, :, 0]

        any_real, hidden = None, None
        if real is not None and count is not None:
            any_real = blocks(count, 1)[:, 0, :, 0, 0] > 0  # (B or 1, n_blocks)
            hidden = any_real[:, None, :, None] & ~blocks(real, 1 << level)[..., 0]
        q_span, k_span = (blocks(t, 1).squeeze(3) for t in (q_span, k_span))
        span = k_span, span_values(q_span, blocks(k, 1 << level), blocks(v, 1 << level), hidden)
        if inner:
            parts = [t.view(B, H, n, -1, K) for t in span]
        else:
            sibling = ((torch.arange(n, device=q.device) >> level - b) ^ 1).div(step, rounding_mode="floor")
            sibling = sibling.clamp(max=n_blocks - 1)
            parts = [t.index_select(2, sibling)[:, :, :, None] for t in span]
            any_real = None if any_real is None else any_real.index_select(1, sibling)
        keys.append(parts[0])
        values.append(parts[1])
        seen.append(None if any_real is None else any_real.view(any_real.shape[0], n, 1, -1))

    q, k, v = (t.view(B, H, n, s, K) for t in (q, k, v))
    at_base = None if real is None else real.view(-1, n, 1, s)
    sees = _sees(L, n, b, levels, causal, [at_base, *seen], q.device)
    logits = q @ torch.cat([k, *keys], dim=3).transpose(-1, -2)  # (B, H, n, s, entries)
    weights = softmax(logits.add_(bias_of(sees, like=logits))).to(v.dtype)
    y = weights @ torch.cat([v, *values], dim=3)
    return y.view(B, H, n * s, K)[:, :, :L]


def _n_blocks(length: int, level: int, *, causal: bool) -> int:
    """Blocks of a level that hold a token; causally, left siblings with a token after them."""
    return (length - 1 >> level) + 1 >> 1 if causal else (length - 1 >> level) + 1


def _pooled(
    f_q: Tensor, f_k: Tensor, real: Tensor | None, summary: Summary, n_levels: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Of each level from 1 on the queries and keys of all blocks (B, H, N, K), and how many tokens are real.

    A block is pooled from its two halves, so all levels together cost as much as one. Without a real token
    its query and key are zero; ``real`` is (B or 1, 1, N of level 0, 1).
    """
    count, nothing, dtype = None, 0.0, f_q.dtype
    if real is not None:
        count, nothing = real.long(), summary.nothing
        f_q, f_k = (t.masked_fill(~real, nothing) for t in (f_q, f_k))
    if summary.pool != "max":  # sums of sums
        f_q, f_k = (t.to(torch.promote_types(dtype, torch.float32)) for t in (f_q, f_k))
    for level in range(1, n_levels):
        f_q, f_k = (summary.merged_all(_pairs(t, nothing)).squeeze(3) for t in (f_q, f_k))
        spans: tuple[Tensor, ...] = f_q, f_k
        n_tokens: Tensor | int = 1 << level
        if count is not None:
            count = _pairs(count, 0).sum(3)
            spans = tuple(t.masked_fill(count == 0, 0.0) for t in spans)
            n_tokens = count.clamp(min=1).to(f_q.dtype)
        q_span, k_span = (summary.divided(t, n_tokens).to(dtype) for t in spans)
        yield q_span, k_span, count


def _pairs(t: Tensor, nothing: float) -> Tensor:
    """(B, H, N, K) -> (B, H, N / 2 rounded up, 2, K)."""
    t = F.pad(t, (0, 0, 0, 1), value=nothing) if int(t.shape[2]) % 2 else t
    return t.view(*t.shape[:2], -1, 2, t.shape[-1])


def _fitted(t: Tensor, length: int) -> Tensor:
    """(B, H, L', K) cut or padded to the length."""
    return t if t.shape[2] == length else F.pad(t, (0, 0, 0, length - int(t.shape[2])))


def _sees(
    length: int, n: int, b: int, levels: int, causal: bool, real: list[Tensor | None], device: torch.device
) -> Tensor:
    """(B or 1, 1, n, s, entries): tokens, then the blocks of each level from 1 on, as in ``real``."""
    i = torch.arange(n << b, device=device).view(n, 1 << b, 1)
    token = torch.arange(1 << b, device=device)
    itself = i % (1 << b) == token
    pair = itself | (i % (1 << b) == token ^ 1) if b else itself
    columns = [pair & (i % (1 << b) >= token) if causal else pair]
    for level in range(1, levels):
        sibling = (i >> level) ^ 1
        if level < b:
            step = 2 if causal else 1
            block = torch.arange(0, 1 << b - level, step, device=device)
            columns.append(sibling % (1 << b - level) == block)
        else:
            columns.append(sibling << level < length)
        if causal:
            columns[-1] = columns[-1] & (i >> level & 1).bool()
    shown = [
        column[None] if some is None else column & (some | itself) if level == 0 else column & some
        for level, (column, some) in enumerate(zip(columns, real))
    ]
    batch = max(column.shape[0] for column in shown)
    return torch.cat([t.expand(batch, n, 1 << b, t.shape[-1]) for t in shown], dim=-1)[:, None]
