"""Combiner's mixture pattern: own row and column token by token, all else by summaries of both.

In a grid of rows of m tokens, the query in row u and column c reads in one softmax (Ren et al. 2021,
arXiv:2107.05768)

    row and column  directly: its row (causal: up to itself), its column (causal: above)
    vertical        for every other column a summary of the part above row u
    horizontal      for every earlier row two summaries, of the parts left and right of c

so what is in neither its row nor its column is covered twice, or once with ``vertical`` or ``horizontal``
alone. The summary of a part pools the part's queries and keys: running pools along a column or a row. Empty
parts (the first row's, the first and last column's) are not read.

Bidirectionally there are also summaries of the parts below, and all other rows are summarised. The authors'
code has that form with running sums, counts a query's own token twice and reads empty parts as zero keys;
this one does neither.

Shapes: B batch, H heads, L length, K head width, n rows of m tokens, so L <= n m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.contract import State
from zoo.ops.combiner_grid import grid_shape, joint_attention, real_grid, to_grid
from zoo.ops.combiner_line import Line
from zoo.ops.combiner_pattern import Cache, Kept, SpanPattern, Tables, Tokens, Work
from zoo.ops.combiner_summary import Summary, bias_of, softmax, span_values

Groups = Literal["both", "vertical", "horizontal"]


@dataclass(frozen=True)
class Mixture(SpanPattern):
    """Rows of ``span`` tokens, and their columns."""

    span: int
    causal: bool
    groups: Groups = "both"

    @property
    def vertical(self) -> bool:
        return self.groups != "horizontal"

    @property
    def horizontal(self) -> bool:
        return self.groups != "vertical"

    def attend(self, tokens: Tokens, summary: Summary, mask: Tensor | None = None) -> Tensor:
        q, k, v, *_ = tokens
        L, K = int(q.shape[2]), q.shape[-1]
        n, m, _ = grid_shape(L, self.span)
        real = real_grid(mask, L, n, m, causal=self.causal, device=q.device)
        q = q * K**-0.5
        f_q, f_k = summary.of_queries(q), summary.of_keys(k)
        same = f_q is q
        q, k, v = (to_grid(t, n, m) for t in (q, k, v))  # (B, H, n, m, K)
        f_q, f_k = (q, k) if same else (to_grid(f_q, n, m), to_grid(f_k, n, m))
        in_rows = Line(f_q, f_k, k, v, None if real is None else real[:, None])
        in_columns = in_rows.transposed()

        below = self.vertical and not self.causal
        beside_row = [(k, v)]
        if self.vertical:
            beside_row += [_crossed(part) for part in in_columns.parts(summary, after=below)]
        beside_column = [(in_columns.k, in_columns.v)]
        if self.horizontal:
            beside_column += [_crossed(part) for part in in_rows.parts(summary, after=True)]
        (k_row, v_row), (k_column, v_column) = (
            tuple(torch.cat(ts, dim=3) if len(ts) > 1 else ts[0] for ts in zip(*beside))
            for beside in (beside_row, beside_column)
        )
        sees_row, sees_column = self._sees(n, m, real, q.device)
        row_logits = q @ k_row.transpose(-1, -2)  # (B, H, n, m, R)
        column_logits = q.transpose(2, 3) @ k_column.transpose(-1, -2)  # (B, H, m, n, C)
        row_logits.add_(bias_of(sees_row, like=row_logits))
        column_logits.add_(bias_of(sees_column, like=row_logits))
        return joint_attention(row_logits, v_row, column_logits, v_column).flatten(2, 3)[:, :, :L]

    def tables(self, length: int, device: torch.device) -> Tables:
        i = torch.arange(length, device=device)
        row, column = i // self.span, i % self.span
        same_row, same_column = row[:, None] == row, column[:, None] == column
        direct = same_row | same_column
        if self.causal:
            direct = direct.tril()
        # A summary for every token that may stand where the query does or in the row that is summarised.
        e = torch.arange(math.ceil(length / self.span) * self.span, device=device)
        at_row, at_column = e[:, None] // self.span, e[:, None] % self.span
        members, readers = [i[:0, None].bool().expand(0, length)], [i[:, None].bool()[:, :0]]
        if self.vertical:  # of column at_column, above (below) row at_row
            reads = (row == at_row) & (column != at_column)
            for part in [row < at_row] if self.causal else [row < at_row, row > at_row]:
                members.append((column == at_column) & part)
                readers.append(reads.T)
        if self.horizontal:  # of row at_row, left (right) of column at_column
            reads = (column == at_column) & (row > at_row if self.causal else row != at_row)
            for part in [column < at_column, column > at_column]:
                members.append((row == at_row) & part)
                readers.append(reads.T)
        return Tables(direct, torch.cat(members), torch.cat(readers, 1))

    def init_state(self, like: Tensor, x: Tensor, summary: Summary) -> State:
        """Queries, keys and values of the open row; of the closed rows keys and values, the parts left and
        right of each column, and what each column pools to and reads.
        """
        B, H, _, K = like.shape
        names = ["q", "k", "v", "k_above", "v_above"]
        if self.horizontal:
            names += ["k_left", "v_left", "k_right", "v_right"]
        state = {name: like.clone() for name in names}
        if self.vertical:
            for name in ("q_pool", "k_pool"):
                state[name] = like.new_full((B, H, self.span, K), summary.nothing)
            state["v_column"] = like.new_zeros(B, H, self.span, K)
        return state

    def prefill(self, tokens: Tokens, summary: Summary) -> State:
        q, k, v, x, _ = tokens
        m = self.span
        cut = int(q.shape[2]) // m * m
        state = self.init_state(k[:, :, :0], x[:, :0], summary)
        if cut:
            state = self._close(state, q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], summary)
        return state | {"q": q[:, :, cut:], "k": k[:, :, cut:], "v": v[:, :, cut:]}

    def step(self, tokens: Tokens, state: State, summary: Summary) -> tuple[Tensor, State]:
        m, column = self.span, state["k"].shape[2]
        n = state["k_above"].shape[2] // m  # closed rows
        state = dict(state)
        for name, new in zip(("q", "k", "v"), tokens[:3]):
            state[name] = torch.cat([state[name], new], dim=2)
        keys, values = [state["k"]], [state["v"]]
        sides = ["above"]
        if self.horizontal:
            sides += ["left"] * (column > 0) + ["right"] * (column < m - 1)
        for side in sides:
            keys.append(state[f"k_{side}"][:, :, column::m])
            values.append(state[f"v_{side}"][:, :, column::m])
        if self.vertical and n:
            k_column = summary.divided(state["k_pool"], n)
            keys += [k_column[:, :, :column], k_column[:, :, column + 1 :]]
            values += [state["v_column"][:, :, :column], state["v_column"][:, :, column + 1 :]]
        logits = tokens.q @ torch.cat(keys, 2).transpose(-1, -2) * tokens.q.shape[-1] ** -0.5
        y = softmax(logits).to(tokens.v.dtype) @ torch.cat(values, 2)
        if column + 1 == m:  # the row closes
            state = self._close(state, state["q"], state["k"], state["v"], summary)
            state |= {name: state[name][:, :, :0] for name in ("q", "k", "v")}
        return y, state

    def _close(self, state: State, q: Tensor, k: Tensor, v: Tensor, summary: Summary) -> State:
        """The state with full rows (B, H, n m, K) added to the closed ones."""
        m = self.span
        n, scale = int(k.shape[2]) // m, k.shape[-1] ** -0.5
        f_q, f_k = summary.of_queries(q), summary.of_keys(k)
        new = {"k_above": k, "v_above": v}
        if self.horizontal:
            f_q_row, f_k_row, k_row, v_row = (to_grid(t, n, m) for t in (f_q * scale, f_k, k, v))
            line = Line(f_q_row, f_k_row, k_row, v_row, None)
            for side, part in zip(("left", "right"), line.parts(summary, after=True)):
                new |= {f"{name}_{side}": t.flatten(2, 3) for name, t in zip(("k", "v"), part)}
        state = state | {name: torch.cat([state[name], t], dim=2) for name, t in new.items()}
        if self.vertical:
            for name, f in (("q_pool", f_q), ("k_pool", f_k)):
                total = summary.merged_all(to_grid(f, n, m).transpose(2, 3)).squeeze(3)  # (B, H, m, K)
                state[name] = summary.merged(state[name], total)
            n_rows = state["k_above"].shape[2] // m
            q_column = summary.divided(state["q_pool"], n_rows) * scale
            columns = [to_grid(state[f"{x}_above"], n_rows, m).transpose(2, 3) for x in ("k", "v")]
            state["v_column"] = span_values(q_column, *columns)
        return state

    def work(self, length: int) -> Work:
        n, m, last = grid_shape(length, self.span)
        ways = 1 if self.causal else 2  # a column's parts: above, and below
        up, sides = ways * self.vertical, 2 * self.horizontal
        pairs = n * m * (m * (1 + up) + n * (1 + sides)) + up * m * n * n + sides * n * m * m
        needed = self._direct(n, m, last) + self.vertical * self._up(n, m, last)
        needed += self.horizontal * self._sides(n, m, last)
        beside = 2 * (up and 1 + up) + 2 * (1 + sides) + 2  # keys and values; queries and outputs, crossed
        flipped = (up > 1) + self.horizontal
        parts = 3 * (up > 0) + self.horizontal + 3 * flipped  # a column's keys and values are crossed as well
        kept = Kept(
            n * m * (beside + parts), of_max=2 * n * m * flipped, places=2 * n * m * (up + sides),
            of_features=2 * length,
        )  # fmt: skip
        return Work(2 * pairs, 2 * needed, pairs, kept, features=2 * length, features_needed=2 * length)

    def step_work(self, n_tokens: int) -> Work:
        (n, column), m = divmod(n_tokens, self.span), self.span
        pairs = column + 1 + n
        if self.vertical and n:
            pairs += m - 1
        if self.horizontal:
            pairs += n * ((column > 0) + (column < m - 1))
        features = 0
        if column + 1 == m:
            pairs += m * (n + 1) * self.vertical + 2 * m * m * self.horizontal
            features = 2 * m
        return Work(2 * pairs, 2 * pairs, pairs, features=features, features_needed=features)

    def cache(self, n_tokens: int) -> Cache:
        n, n_open = divmod(n_tokens, self.span)
        closed, columns = 6 if self.horizontal else 2, 3 * self.span * self.vertical
        return Cache(
            closed * n * self.span + 3 * n_open + columns, per_token=(3 if self.horizontal else 2, 1)
        )

    def _direct(self, n: int, m: int, last: int) -> int:
        """Pairs of tokens of one row or column."""
        if self.causal:
            rows = (n - 1) * m * (m + 1) // 2 + last * (last + 1) // 2
            return rows + m * (n - 1) * (n - 2) // 2 + last * (n - 1)
        rows = (n - 1) * m * m + last * last
        return rows + last * n * (n - 1) + (m - last) * (n - 1) * (n - 2)

    def _up(self, n: int, m: int, last: int) -> int:
        """Pairs of the parts of columns: read, and inside those that are read."""
        sizes = [m] * (n - 1) + [last]
        pairs = 0
        for u, size in enumerate(sizes):
            columns = min(m, m * (size > 1) + (m - 1) * (size == 1))  # a lone token reads all but its own
            if u:
                pairs += size * (m - 1) + columns * u
            if not self.causal and u < n - 1:
                below = n - 1 - u  # rows, the last of them in its first columns alone
                full = m if below > 1 else last  # columns with a token below
                pairs += sum(full - (c < full) for c in range(size))
                pairs += columns * (below - 1) + last
        return pairs

    def _sides(self, n: int, m: int, last: int) -> int:
        """The same of the parts of rows."""
        sizes = [m] * (n - 1) + [last]
        pairs = 0
        for u, size in enumerate(sizes):
            later = n - 1 - u
            for c in range(m):
                readers = max(0, later - (c >= last)) + (0 if self.causal else u)
                for part in (min(c, size), max(0, size - 1 - c)):
                    if readers and part:
                        pairs += readers + part
        return pairs

    def _sees(self, n: int, m: int, real: Tensor | None, device: torch.device) -> tuple[Tensor, Tensor]:
        """(B or 1, 1, n, m, R), a token and what stands beside its row; (B or 1, 1, m, n, C), its column."""
        token, row = (torch.arange(size, device=device) for size in (m, n))
        real = torch.ones(1, n, m, dtype=torch.bool, device=device) if real is None else real
        near = token[:, None] >= token if self.causal else token[:, None] >= -1 - token
        itself = token[:, None] == token
        beside_row = [near & (real[:, :, None] | itself)]  # (B or 1, n, m, m)
        if self.vertical:
            parts = [_some_before(real, 1)]
            if not self.causal:
                parts.append(_some_before(real.flip(1), 1).flip(1))
            beside_row += [part[:, :, None] & ~itself for part in parts]
        others = row[:, None] > row if self.causal else row[:, None] != row
        columns = real.transpose(1, 2)  # (B or 1, m, n)
        beside_column = [others & columns[:, :, None]]
        if self.horizontal:
            parts = [_some_before(real, 2), _some_before(real.flip(2), 2).flip(2)]
            beside_column += [others & part.transpose(1, 2)[:, :, None] for part in parts]
        return torch.cat(beside_row, -1)[:, None], torch.cat(beside_column, -1)[:, None]


def _some_before(real: Tensor, dim: int) -> Tensor:
    """(B, n, m) -> whether there is a real token earlier along a dimension."""
    return real.cumsum(dim) - real.long() > 0


def _crossed(part: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Summaries by line and place in it (..., a, b, K) -> by place and line (..., b, a, K)."""
    return part[0].transpose(2, 3), part[1].transpose(2, 3)
