"""What a mask may be: boolean (B, L), True at real tokens; packed sequences are refused, not misread.

A row holds one sequence. Several documents in one row would need a mask of pairs of tokens, states that begin
anew inside a row, and clusters and groups that end with a document: no mixer has that. Numbers of documents
(B, L) or a mask of pairs (B, L, L) would otherwise be taken for something else, or fail far from their cause.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PACKED = (
    "packed sequences (several documents in one row, told apart by numbers or by a mask of pairs) are not "
    "supported: give each document a row of its own, pad the rows to one length and mask the padding"
)


def check_mask(mask: Tensor | None, stream: Tensor) -> None:
    """ValueError unless ``mask`` is None or fits ``stream`` (B, L, ...)."""
    if mask is None:
        return
    wanted = tuple(stream.shape[:2])
    if mask.dtype == torch.bool and any(isinstance(size, Tensor) for size in wanted):
        return  # where counters trace, sizes are tensors
    if mask.dtype != torch.bool or tuple(mask.shape) != wanted:
        found = f"{str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}"
        right = f"a mask is boolean of shape (B, L) = {wanted}, True at real tokens"
        raise ValueError(f"{right}; this one is {found}; {PACKED}")


def check_mixer_mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a mixer's ``forward(x, mask)``."""
    check_mask(kwargs.get("mask", args[1] if len(args) > 1 else None), args[0])


def check_source_mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a transfer's ``forward(queries, source, mask)``."""
    check_mask(kwargs.get("mask", args[2] if len(args) > 2 else None), args[1])
