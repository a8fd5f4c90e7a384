"""Attention at a stride: a token reads those whose distance from it is a multiple of the stride.

As the strided heads of Routing Transformer's published code: tokens at one place of their blocks of
``stride`` attend to each other, causally or not. The sequence, written in rows of ``stride``, is attended
column by column: L^2 / stride pairs, and no tensor of them all.

Shapes: B batch, H heads, L length, K head width. A mask is (B, L), True at real tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.softmax_attention import full_attention


def strided_attention(
    q: Tensor, k: Tensor, v: Tensor, *, stride: int, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """q, k, v (B, H, L, K) -> (B, H, L, K): the first columns may be a row longer than the others."""
    B, H, L, K = q.shape
    n_rows = L // stride
    n_longer = L - n_rows * stride
    ys = []
    for first, last, rows in ((0, n_longer, n_rows + 1), (n_longer, stride, n_rows)):
        if first == last or rows == 0:
            continue
        columns = [_columns(t, stride, first, last, rows) for t in (q, k, v)]
        real = None if mask is None else _columns(mask[:, None, :, None], stride, first, last, rows)
        y = full_attention(*columns, causal=causal, mask=None if real is None else real[:, 0, :, 0])
        y = y.view(B, last - first, H, rows, K).permute(0, 2, 3, 1, 4)  # (B, H, rows, columns, K)
        ys.append(F.pad(y, (0, 0, 0, 0, 0, -(-L // stride) - rows)))
    return torch.cat(ys, dim=3).flatten(2, 3)[:, :, :L]


def _columns(t: Tensor, stride: int, first: int, last: int, rows: int) -> Tensor:
    """(B, H, L, K) -> (B columns, H, rows, K), the columns from ``first`` on and before ``last``."""
    missing = max(0, rows * stride - t.shape[2])
    padded = F.pad(t, (0, 0, 0, missing))[:, :, : rows * stride]
    rows_of = padded.reshape(*t.shape[:2], rows, stride, t.shape[3])
    return rows_of[:, :, :, first:last].permute(0, 3, 1, 2, 4).flatten(0, 1)


def strided_pairs(L: int, stride: int, *, causal: bool) -> tuple[int, int]:
    """Pairs of a query and a key in one head: (multiplied, inside the pattern)."""
    n_rows, n_longer = divmod(L, stride)
    columns = ((n_longer, n_rows + 1), (stride - n_longer, n_rows))
    done = sum(many * rows**2 for many, rows in columns)
    return done, sum(many * rows * (rows + 1) // 2 for many, rows in columns) if causal else done
