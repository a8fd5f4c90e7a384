"""What FIT does to streams and masks: cut into groups, join again, shift by a group; a mask may be absent.

Shapes: B batch, L length, D width, t groups, n positions per group (the last group is filled up with
zeros), m latents per group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.contract import Stem


def group(x: Tensor, length: int) -> Tensor:
    """(B, L, D) -> (B t, n, D) with n = ``length``."""
    if missing := -x.shape[1] % length:
        x = F.pad(x, (0, 0, 0, missing))
    return x.reshape(-1, length, x.shape[2])


def group_whole(x: Tensor, length: int) -> Tensor:
    """``group`` where a mixer without a mask follows: the groups must be full."""
    if x.shape[1] % length:
        raise ValueError(f"length {x.shape[1]} does not fill groups of {length}, and the mixers take no mask")
    return group(x, length)


def ungroup(x: Tensor, like: Tensor) -> Tensor:
    """(B t, n, D) -> (B, L, D), where ``like`` is (B, L, .)."""
    B, L = like.shape[:2]
    joined = x.reshape(B, -1, x.shape[2])
    return joined if joined.shape[1] == L else joined[:, :L]


def shift(z: Tensor, length: int) -> Tensor:
    """(B, t m, D) -> (B, t m, D): each group has the latents of the one before it, the first one zeros."""
    return F.pad(z[:, :-length], (0, 0, length, 0))


def stem_mask(stem: Stem, mask: Tensor | None) -> Tensor | None:
    """The mask of the input -> the mask of the stream that ``stem`` makes."""
    return None if mask is None else stem.out_mask(mask)


def group_mask(mask: Tensor | None, x: Tensor, length: int) -> Tensor | None:
    """(B, L) -> (B t, n): the filled-up end of the last group counts as padding, even without a mask."""
    B, L = x.shape[:2]
    missing = -L % length
    if mask is None:
        if not missing:
            return None
        mask = torch.ones(B, L, dtype=torch.bool, device=x.device)
    return F.pad(mask, (0, missing)).reshape(-1, length)


def latent_mask(mask: Tensor | None, length: int, n_latents: int) -> Tensor | None:
    """(B, L) -> (B, t m): the latents of a group that holds no real token count as padding."""
    if mask is None:
        return None
    groups = F.pad(mask, (0, -mask.shape[1] % length)).reshape(mask.shape[0], -1, length)
    return groups.any(-1).repeat_interleave(n_latents, dim=1)
