"""Combiner's row-major axial pattern: own row token by token, each other row by its summary for a column.

In a grid of rows of m tokens, a query reads its own row directly (causal: up to itself), and of every
earlier row (bidirectional: every other row) one summary, which depends on the query's column c. Its value is
what the row's own token c reads from the whole row; its key follows from the same (Ren et al. 2021,
arXiv:2107.05768; ``row_summary``):

    none       the key of the row's token c
    wsum       the row's keys under the value's weights
    proj       key(norm(out(value of all heads) + x)), x the layer's input at the row's token c
    wsum_proj  the same of the wsum instead of the value

Where a row has no real token in column c (padding, a partial last row), that token's query, key and input
count as zero, so its summary is the mean of the row's real tokens. ``own_row_twice`` is what the authors'
code does bidirectionally: it reads the own row's summary beside its tokens.

Shapes: B batch, H heads, L length, K head width, D d_model, n rows of m tokens, so L <= n m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.contract import State
from zoo.norms import LayerNorm, build_norm
from zoo.ops.combiner_grid import grid_shape, joint_attention, real_grid, to_grid
from zoo.ops.combiner_pattern import Cache, Kept, Pattern, Tables, Tokens, Work, augmented, weighted
from zoo.ops.combiner_summary import bias_of, softmax

RowSummaryKind = Literal["none", "wsum", "proj", "wsum_proj"]


class RowSummary(nn.Module):
    """The key of a row's summary; it has parameters where it projects. Biases start at zero."""

    def __init__(
        self, kind: RowSummaryKind, *, d_model: int, n_heads: int, d_head: int, key_bias: bool, out_bias: bool
    ):
        super().__init__()
        self.kind = kind
        if self.projects:
            self.out = nn.Linear(n_heads * d_head, d_model, bias=out_bias)
            self.norm = build_norm(LayerNorm.Config(), d_model)
            self.key = nn.Linear(d_model, n_heads * d_head, bias=key_bias)
            for bias in (self.out.bias, self.key.bias):
                if bias is not None:
                    nn.init.zeros_(bias)

    @property
    def projects(self) -> bool:
        return self.kind.endswith("proj")

    def projected(self, t: Tensor, x: Tensor) -> Tensor:
        """(B, H, L, K), (B, L, D) -> (B, H, L, K)."""
        read = self.norm(self.out(t.transpose(1, 2).flatten(2)) + x)
        return self.key(read).unflatten(-1, (t.shape[1], -1)).transpose(1, 2)


@dataclass(frozen=True)
class Axial(Pattern[RowSummary]):
    """Rows of ``span`` tokens."""

    span: int
    causal: bool
    row_summary: RowSummaryKind
    own_row_twice: bool = False

    def attend(self, tokens: Tokens, summary: RowSummary, mask: Tensor | None = None) -> Tensor:
        q, k, v, x, _ = tokens
        L, K = int(q.shape[2]), q.shape[-1]
        n, m, _ = grid_shape(L, self.span)
        real = real_grid(mask, L, n, m, causal=self.causal, device=q.device)
        if mask is not None:
            q, k = (t.masked_fill(~mask[:, None, :, None], 0.0) for t in (q, k))
            x = x.masked_fill(~mask[..., None], 0.0) if summary.projects else x
        q, k, v = (to_grid(t, n, m) for t in (q * K**-0.5, k, v))

        logits = q @ k.transpose(-1, -2)  # (B, H, n, m, m): both a token's own row and a row's summaries
        hidden = None if real is None else ~(real | ~real.any(-1, keepdim=True))[:, None, :, None]
        weights = softmax(logits if hidden is None else logits.masked_fill(hidden, -math.inf)).to(v.dtype)
        k_row, v_row = _summaries(weights, k, v, x, summary)
        columns = [t.transpose(2, 3) for t in (q, k_row, v_row)]  # (B, H, m, n, K)
        column_logits = columns[0] @ columns[1].transpose(-1, -2)

        sees_tokens, sees_rows = self._sees(n, m, real, q.device)
        logits = logits.add_(bias_of(sees_tokens, like=logits))
        column_logits = column_logits.add_(bias_of(sees_rows, like=logits))
        return joint_attention(logits, v, column_logits, columns[2]).flatten(2, 3)[:, :, :L]

    def reference(self, tokens: Tokens, summary: RowSummary, mask: Tensor | None = None) -> Tensor:
        B, _, L, K = tokens.q.shape
        m = self.span
        n = math.ceil(L / m)
        real = torch.ones(B, L, dtype=torch.bool, device=tokens.q.device) if mask is None else mask
        tables = self.tables(L, tokens.q.device)
        inside = (
            tables.members & real[:, None, None]
        )  # (B, 1, E, L): summary e is row e // m for column e % m
        q_row, k_row = (
            F.pad(t.masked_fill(~real[:, None, :, None], 0.0), (0, 0, 0, n * m - L))
            for t in (tokens.q, tokens.k)
        )
        x = F.pad(tokens.x.masked_fill(~real[..., None], 0.0), (0, 0, 0, n * m - L))
        logits = q_row @ tokens.k.mT / K**0.5
        v_row = weighted(logits, tokens.v, inside)
        if self.row_summary != "none":
            k_row = weighted(logits, tokens.v if self.row_summary == "proj" else tokens.k, inside)
        if summary.projects:
            k_row = summary.projected(k_row, x)
        return augmented(tokens, tables, k_row, v_row, inside.any(-1), real)

    def tables(self, length: int, device: torch.device) -> Tables:
        """The summary of row u for column c is number u m + c, whether a token stands there or not."""
        m = self.span
        i, e = (torch.arange(size, device=device) for size in (length, math.ceil(length / m) * m))
        direct = i[:, None] // m == i // m
        other = i[:, None] // m > e // m if self.causal else i[:, None] // m != e // m
        if self.causal:
            direct = direct.tril()
        elif self.own_row_twice:
            other = torch.ones_like(other)
        return Tables(direct, i // m == e[:, None] // m, other & (i[:, None] % m == e % m))

    def init_state(self, like: Tensor, x: Tensor, summary: RowSummary) -> State:
        """Queries, keys, values (and inputs, to project) of the open row; summaries of the closed ones."""
        state = {name: like.clone() for name in ("q", "k", "v", "k_row", "v_row")}
        return state | ({"x": x} if summary.projects else {})

    def prefill(self, tokens: Tokens, summary: RowSummary) -> State:
        q, k, v, x, _ = tokens
        n, m = int(q.shape[2]) // self.span, self.span
        closed = slice(0, n * m)
        k_row, v_row = self._closed(
            Tokens(q[:, :, closed], k[:, :, closed], v[:, :, closed], x[:, closed]), summary
        )
        names = zip(("q", "k", "v"), (q, k, v))
        state = {name: t[:, :, n * m :] for name, t in names} | {"k_row": k_row, "v_row": v_row}
        return state | ({"x": x[:, n * m :]} if summary.projects else {})

    def step(self, tokens: Tokens, state: State, summary: RowSummary) -> tuple[Tensor, State]:
        column, m = state["k"].shape[2], self.span
        state = dict(state)
        for name, new in zip(("q", "k", "v"), tokens[:3]):
            state[name] = torch.cat([state[name], new], dim=2)
        if summary.projects:
            state["x"] = torch.cat([state["x"], tokens.x], dim=1)
        keys, values = (
            torch.cat([state[name], state[f"{name}_row"][:, :, column::m]], dim=2) for name in ("k", "v")
        )
        logits = tokens.q @ keys.transpose(-1, -2) * tokens.q.shape[-1] ** -0.5
        y = softmax(logits).to(values.dtype) @ values
        if column + 1 == m:  # the row closes
            x = state.get("x", tokens.x)
            for name, new in zip(
                ("k_row", "v_row"), self._closed(Tokens(state["q"], state["k"], state["v"], x), summary)
            ):
                state[name] = torch.cat([state[name], new], dim=2)
            state |= {name: state[name][:, :, :0] for name in ("q", "k", "v")}
            if summary.projects:
                state["x"] = state["x"][:, :0]
        return y, state

    def work(self, length: int) -> Work:
        n, m, last = grid_shape(length, self.span)
        sums = 1 + self.row_summary.startswith("wsum")  # of values, and of keys
        projects = self.row_summary.endswith("proj")
        if self.causal:
            direct = (n - 1) * m * (m + 1) // 2 + last * (last + 1) // 2
            read = m * (n - 1) * (n - 2) // 2 + last * (n - 1)
            summarised = (n - 2) * m + last if n > 1 else 0  # tokens with a later row's token in their column
            inside = summarised * m
            logits = inside + m * (m + 1) // 2
        else:
            logits = direct = (n - 1) * m * m + last * last
            read = length * (n if self.own_row_twice else n - 1)
            columns = m if n > 2 or self.own_row_twice else last  # of a full row that are read
            last_columns = m if n > 1 else last * self.own_row_twice
            summarised = (n - 1) * columns + last_columns
            inside = (n - 1) * columns * m + last_columns * last
        return Work(
            2 * n * m * (m + n) + sums * n * m * m,
            logits + direct + sums * inside + 2 * read,
            n * m * (2 * m + n),
            Kept(n * m * (4 + projects), inputs=2 * n * m * projects),
            features=n * m,
            features_needed=summarised,
        )

    def step_work(self, n_tokens: int) -> Work:
        (n, n_open), m = divmod(n_tokens, self.span), self.span
        row = m * m if n_open + 1 == m else 0  # pairs of a row that closes
        sums = 1 + self.row_summary.startswith("wsum")
        products = 2 * (n + n_open + 1) + (1 + sums) * row
        features = row // m
        return Work(products, products, n + n_open + 1 + row, features=features, features_needed=features)

    def cache(self, n_tokens: int) -> Cache:
        n_open = n_tokens % self.span
        projects = self.row_summary.endswith("proj")
        return Cache(2 * n_tokens + n_open, per_token=(2, 1), inputs=n_open if projects else 0)

    def _closed(self, tokens: Tokens, summary: RowSummary) -> tuple[Tensor, Tensor]:
        """Full rows (B, H, n m, K) -> the keys and values of their summaries, (B, H, n m, K)."""
        q, k, v, x, _ = tokens
        m = self.span
        q, k, v = (to_grid(t, int(t.shape[2]) // m, m) for t in (q * q.shape[-1] ** -0.5, k, v))
        weights = softmax(q @ k.transpose(-1, -2)).to(v.dtype)
        k_row, v_row = _summaries(weights, k, v, x, summary)
        return k_row.flatten(2, 3), v_row.flatten(2, 3)

    def _sees(self, n: int, m: int, real: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """A token and those of its row (B or 1, 1, n or 1, m, m); and a row (B or 1, 1, 1, n, n)."""
        token, row = (torch.arange(size, device=device) for size in (m, n))
        if self.causal:
            tokens, rows = token[:, None] >= token, row[:, None] > row
        else:
            tokens, rows = torch.ones(m, m, dtype=torch.bool, device=device), row[:, None] != row
            rows = torch.ones_like(rows) if self.own_row_twice else rows
        if real is None:
            return tokens[None, None, None], rows[None, None, None]
        tokens = tokens & (real[:, :, None] | (token[:, None] == token))
        return tokens[:, None], (rows & real.any(-1)[:, None])[:, None, None]


def _summaries(
    weights: Tensor, k: Tensor, v: Tensor, x: Tensor, summary: RowSummary
) -> tuple[Tensor, Tensor]:
    """Weights (B, H, n, m, m), k, v (B, H, n, m, K), x (B, <= n m, D) -> keys, values (B, H, n, m, K)."""
    n, m = k.shape[2], k.shape[3]
    v_row = weights @ v
    match summary.kind:
        case "none":
            return k, v_row
        case "proj":
            k_row = v_row
        case _:
            k_row = weights @ k
    if summary.projects:
        x = F.pad(x, (0, 0, 0, n * m - int(x.shape[1])))
        k_row = to_grid(summary.projected(k_row.flatten(2, 3), x), n, m)
    return k_row, v_row
