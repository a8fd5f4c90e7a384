"""The sequence as a grid of rows, and softmax attention to a row's entries and a column's together.

Combiner's axial and mixture patterns (Ren et al. 2021, arXiv:2107.05768) place token i in row i // m and
column i % m. What a token reads stands beside its row (its tokens, summaries of columns) or beside its
column (its tokens, summaries of rows), in one softmax.

Shapes: B batch, H heads, n rows of m tokens, K head width, R entries beside a row, C beside a column.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def grid_shape(length: int, span: int) -> tuple[int, int, int]:
    """Rows, tokens in a row, and tokens in the last row."""
    m = min(span, length)
    n = math.ceil(length / m)
    return n, m, length - (n - 1) * m


def to_grid(t: Tensor, n: int, m: int) -> Tensor:
    """(B, H, L, ...) -> (B, H, n, m, ...), padded with zeros."""
    if (pad := n * m - int(t.shape[2])) > 0:
        t = F.pad(t, (*(0, 0) * (t.ndim - 3), 0, pad))
    return t.reshape(*t.shape[:2], n, m, *t.shape[3:])


def real_grid(
    mask: Tensor | None, length: int, n: int, m: int, *, causal: bool, device: torch.device
) -> Tensor | None:
    """The mask (B, L) as (B or 1, n, m); None where nobody real could read padding."""
    if mask is None:
        if causal or length == n * m:  # causally nobody real reads the last row's padding
            return None
        mask = (torch.arange(length, device=device) < length)[None]
    return F.pad(mask, (0, n * m - length)).view(-1, n, m)


def joint_attention(
    row_logits: Tensor, row_values: Tensor, column_logits: Tensor, column_values: Tensor
) -> Tensor:
    """Logits (B, H, n, m, R), (B, H, m, n, C), values (B, H, n, R, K), (B, H, m, C, K) -> (B, H, n, m, K).

    Of each token some logit is finite. The two parts of a softmax stay where they are, and only its
    greatest logit, sum and output cross over; the exponentials are in fp32 at least. Overwrites logits.
    """
    wide = torch.promote_types(row_logits.dtype, torch.float32)
    row, column = row_logits.to(wide), column_logits.to(wide)
    with torch.no_grad():  # a softmax does not depend on what is taken off all its logits
        top = torch.maximum(row.amax(-1), column.amax(-1).transpose(2, 3))[..., None]  # (B, H, n, m, 1)
    row = row.sub_(top).exp_()
    column = column.sub_(top.transpose(2, 3)).exp_()
    total = row.sum(-1) + column.sum(-1).transpose(2, 3)
    dtype = row_values.dtype
    y = row.to(dtype) @ row_values + (column.to(dtype) @ column_values).transpose(2, 3)
    return (y / total[..., None]).to(dtype)
