"""Matrices whose entry is a function of one query and one key, and the matrix without any structure.

    dense:      M[i, j] = c w_ij,                                              c = 1 / sqrt(n)
    Cauchy:     M[i, j] = c sum_d 1 / (exp(q_id) + exp(k_jd) + 2 b + 1e-8),     c = 1 / sqrt(n K)
    low rank:   M[i, j] = c q_i . k_j,                                         c = 1 / sqrt(n K)
    attention:  M[i, j] = softmax over j of q_i . k_j / sqrt(K)

b is one number, 1/2 at the start, for queries and keys of tokens, and 0 for tables. It is held as its
logarithm: a negative b would make poles. Low rank and attention may be causal: entries above the diagonal
are zero.

Cauchy matrices and attention with tables form a block of rows at a time, in float32 at least. Attention
between tokens is ``scaled_dot_product_attention``; its fused kernels want one width, so the narrower of
queries and values is filled with zeros. A low-rank product is q (k^T v), or if causal done in chunks.

Shapes: B batch, L length, H heads, P head width, K d_qk, R rows, n max_len.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.contract import State
from zoo.ops.matrix_structure import (
    Cache,
    Pairs,
    Sizes,
    Structure,
    Work,
    multiply,
    multiply_by_rows,
    rows_work,
    widened,
)
from zoo.ops.softmax_attention import full_attention
from zoo.ops.ssd import ssd, ssd_macs, ssd_macs_needed, ssd_macs_spared

TINY = 1e-8  # keeps a denominator from zero


class Dense(Structure):
    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.weight = nn.Parameter(torch.empty(sizes.n_heads, sizes.max_len, sizes.max_len))
        nn.init.xavier_normal_(self.weight)

    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        return multiply(self.matrix(inputs, steps, mask), v)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        L = inputs.shape[1]
        return self.sizes.max_len**-0.5 * self.weight[None, :, :L, :L]

    @classmethod
    def n_inputs(cls, sizes: Sizes) -> int:
        return 0

    @classmethod
    def n_params(cls, sizes: Sizes) -> int:
        return sizes.n_heads * sizes.max_len**2

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        pairs = sizes.n_heads * length * length
        macs = batch_size * pairs * sizes.d_head
        return Work(macs, macs, pairs, pairs)


class Cauchy(Pairs):
    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.scale = (sizes.max_len * sizes.d_qk) ** -0.5
        self.log_shift = nn.Parameter(torch.tensor(0.5).log()) if sizes.data_dependent else None

    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        a, b = self._nodes(inputs)

        def rows(start: int, stop: int) -> Tensor:
            return self.scale * (a[:, :, start:stop, None] + b[:, :, None]).reciprocal().sum(-1)

        return multiply_by_rows(rows, v, at_once=self.sizes.chunk_size)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        q, k = (widened(t) for t in self.pair(inputs))
        shift = 0.0 if self.log_shift is None else 2 * self.log_shift.exp()
        denominators = q.exp()[..., :, None, :] + k.exp()[..., None, :, :] + shift + TINY  # (B, H, L, L, K)
        return self.scale * (1 / denominators).sum(-1)

    def _nodes(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What a query and a key add to a denominator: (B or 1, H, L, K)."""
        q, k = self.pair(inputs)
        a, b = widened(q).exp(), widened(k).exp() + TINY
        return (a, b) if self.log_shift is None else (a, b + 2 * widened(self.log_shift).exp())

    @classmethod
    def n_params(cls, sizes: Sizes) -> int:
        return super().n_params(sizes) + sizes.data_dependent

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        return rows_work(sizes, length, batch_size, per_term=3)


class LowRank(Pairs):
    takes_silu = True

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.scale = (sizes.max_len * sizes.d_qk) ** -0.5

    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        B, L, H, _ = v.shape
        q, k = self.pair(inputs)
        q = self.scale * q
        if not self.sizes.causal:
            return multiply(q, multiply(k.transpose(-1, -2), v))
        q, k = (t.transpose(1, 2).expand(B, -1, -1, -1) for t in (q, k))  # (B, L, H, K)
        no_decay = torch.zeros(B, L, H, dtype=widened(v).dtype, device=v.device)
        y, _ = ssd(v, no_decay, k, q, chunk_size=self.sizes.chunk_size)
        return y.to(v.dtype)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        q, k = self.pair(inputs)
        m = self.scale * (q @ k.transpose(-1, -2))
        return m.tril() if self.sizes.causal else m

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        shape = (batch_size, self.sizes.n_heads, self.sizes.d_qk, self.sizes.d_head)
        state = {"sum": torch.zeros(shape, dtype=torch.promote_types(dtype, torch.float32), device=device)}
        if not self.sizes.data_dependent:
            state["position"] = torch.zeros(batch_size, dtype=torch.long, device=device)
        return state

    def remember(self, v: Tensor, inputs: Tensor, state: State) -> State:
        """The sum of k_j v_j^T."""
        _, k = self.pair(inputs)
        after = {"sum": state["sum"] + multiply(k.transpose(-1, -2), v).transpose(1, 2)}
        if "position" in state:
            after["position"] = state["position"] + v.shape[1]
        return after

    def step(self, v: Tensor, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        if self.sizes.data_dependent:
            q, k = inputs.view(inputs.shape[0], 2, self.sizes.n_heads, -1).unbind(1)  # (B, H, K)
            after = {}
        else:
            q, k = self.queries[state["position"]], self.keys[state["position"]]
            after = {"position": state["position"] + 1}
        after["sum"] = state["sum"] + k[..., :, None] * v[..., None, :]
        y = (self.scale * q[..., None, :]).to(after["sum"].dtype) @ after["sum"]
        return y.squeeze(-2).to(v.dtype), after

    @classmethod
    def cache(cls, sizes: Sizes) -> Cache:
        state = sizes.n_heads * sizes.d_qk * sizes.d_head
        return Cache(0, wide=state, position_bytes=0 if sizes.data_dependent else 8)

    @classmethod
    def step_work(cls, sizes: Sizes, n: int, batch_size: int) -> Work:
        state = batch_size * sizes.n_heads * sizes.d_qk * sizes.d_head
        return Work(state, state, 2 * state, state)

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        state = sizes.n_heads * sizes.d_qk * sizes.d_head
        if not sizes.causal:
            macs = 2 * batch_size * length * state
            return Work(macs, macs, 0, batch_size * state)
        H = sizes.n_heads
        as_ssd = {"n_heads": H, "d_head": sizes.d_head, "n_groups": H, "d_state": sizes.d_qk}
        macs = batch_size * ssd_macs(length, sizes.chunk_size, **as_ssd)
        needed = batch_size * ssd_macs_needed(length, sizes.chunk_size, **as_ssd)
        elements = batch_size * length * H * min(sizes.chunk_size, length)
        return Work(macs, needed, 5 * elements, 3 * elements)

    @classmethod
    def backward_macs(cls, sizes: Sizes, length: int, batch_size: int) -> tuple[int, int]:
        done, needed = super().backward_macs(sizes, length, batch_size)
        if not sizes.causal:
            return done, needed
        d_inner = sizes.n_heads * sizes.d_head
        spared = ssd_macs_spared(length, sizes.chunk_size, d_inner=d_inner, d_state=sizes.d_qk)
        return done - batch_size * spared, needed - batch_size * spared


class Attention(Pairs):
    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        q, k = self.pair(inputs)
        if not self.sizes.data_dependent:
            return multiply_by_rows(self._rows(q, k, mask), v, at_once=self.sizes.chunk_size)
        K, P = self.sizes.d_qk, self.sizes.d_head
        width = max(K, P)
        q, k = F.pad(q * (width / K) ** 0.5, (0, width - K)), F.pad(k, (0, width - K))
        v = F.pad(v.transpose(1, 2), (0, width - P))
        y = full_attention(q, k, v, causal=self.sizes.causal, mask=mask)
        return y[..., :P].transpose(1, 2)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        q, k = self.pair(inputs)
        i = torch.arange(inputs.shape[1], device=q.device)
        allowed = i[:, None] >= i if self.sizes.causal else torch.ones_like(i[:, None] >= i)
        if mask is not None:
            allowed = allowed & (mask[:, None, None, :] | (i[:, None] == i))  # a padded query reads itself
        scores = widened(q) @ widened(k).transpose(-1, -2) * self.sizes.d_qk**-0.5
        return scores.masked_fill(~allowed, -math.inf).softmax(-1)

    def _rows(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Callable[[int, int], Tensor]:
        """Rows of the tables' matrix: (1, H, R, L), or with a mask (B, H, R, L)."""
        position = torch.arange(k.shape[2], device=k.device)

        def rows(start: int, stop: int) -> Tensor:
            row = position[start:stop, None]
            scores = widened(q[:, :, start:stop] @ k.transpose(-1, -2) * self.sizes.d_qk**-0.5)
            if self.sizes.causal:
                scores = scores.masked_fill(row < position, -math.inf)
            if mask is not None:
                scores = scores.masked_fill(~mask[:, None, None] & (row != position), -math.inf)
            return scores.softmax(-1)

        return rows

    def last_row(self, inputs: Tensor, kept: Tensor) -> Tensor:
        n, H = kept.shape[1], self.sizes.n_heads
        if self.sizes.data_dependent:
            q = inputs.chunk(2, dim=-1)[0].view(-1, H, 1, self.sizes.d_qk)
            k = kept.view(-1, n, H, self.sizes.d_qk).transpose(1, 2)
        else:
            q, k = self.queries[n - 1 : n].transpose(0, 1)[None], self.keys[:n].transpose(0, 1)[None]
        return widened(q @ k.transpose(-1, -2) * self.sizes.d_qk**-0.5).softmax(-1)

    @classmethod
    def step_work(cls, sizes: Sizes, n: int, batch_size: int) -> Work:
        rows = batch_size if sizes.data_dependent else 1
        macs = n * sizes.n_heads * (rows * sizes.d_qk + batch_size * sizes.d_head)
        return Work(macs, macs, 4 * rows * n * sizes.n_heads, 2 * rows * n * sizes.n_heads)

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        pairs = sizes.n_heads * length * length
        reached = sizes.n_heads * length * (length + 1) // 2 if sizes.causal else pairs
        K, P = sizes.d_qk, sizes.d_head
        if not sizes.data_dependent:  # the scores are those of every sequence
            macs, needed = (n * (K + batch_size * P) for n in (pairs, reached))
            return Work(macs, needed, 4 * pairs, 2 * pairs * min(sizes.chunk_size, length) // length)
        macs = 2 * batch_size * pairs * max(K, P)
        filled = batch_size * length * sizes.n_heads * max(K, P)
        return Work(macs, batch_size * reached * (K + P), 4 * batch_size * pairs, 3 * filled)

    @classmethod
    def backward_macs(cls, sizes: Sizes, length: int, batch_size: int) -> tuple[int, int]:
        """Rows of tables are formed again, scores and all."""
        done, needed = super().backward_macs(sizes, length, batch_size)
        scores = 0 if sizes.data_dependent else sizes.n_heads * length * length * sizes.d_qk
        return done + scores, needed
