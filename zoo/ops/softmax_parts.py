"""Softmax attention whose keys stand in several places: each place gives a part, and parts are joined.

A part is not divided by its sum yet. Taking its greatest logit off all of them keeps the exponentials in
range, and changes nothing once parts are joined. Exponentials are in fp32 at least.

Shapes: M queries, N keys of a part, K width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """Of one softmax, with its keys of one place; the numbers are in fp32 at least."""

    y: Tensor  # (..., M, K): values under exp(logit - top)
    total: Tensor  # (..., M, 1): the sum of exp(logit - top)
    top: Tensor  # (..., M, 1): the greatest logit, or the lowest number where nothing is seen


def part_of(logits: Tensor, v: Tensor) -> Part:
    """Logits (..., M, N), -inf where a query does not see a key; values (..., N, K). Overwrites logits."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    with torch.no_grad():
        top = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)
    weights = logits.sub_(top).exp_()
    return Part(weights.to(v.dtype) @ v, weights.sum(-1, keepdim=True), top)


def joined(a: Part, b: Part) -> Tensor:
    """(..., M, K): one softmax over the keys of both; some query of either must see a key."""
    top = torch.maximum(a.top, b.top)
    of_a, of_b = (a.top - top).exp(), (b.top - top).exp()
    y = a.y * of_a + b.y * of_b
    return (y / (a.total * of_a + b.total * of_b)).to(a.y.dtype)
