"""The arithmetic of a transfer audit: rank correlation, its interval, regret, repeated n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Tau-b, ties allowed; nan where one of the two is constant."""
    x, y = np.asarray(a, float), np.asarray(b, float)
    upper = np.triu_indices(len(x), 1)
    dx, dy = (np.sign(np.subtract.outer(v, v))[upper] for v in (x, y))
    pairs = float(np.sqrt((dx**2).sum() * (dy**2).sum()))
    return float((dx * dy).sum() / pairs) if pairs else float("nan")


def tau_interval(
    a: Sequence[float], b: Sequence[float], *, n: int = 4000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of tau over resampled models, those left out whose tau is undefined."""
    x, y, rng = np.asarray(a, float), np.asarray(b, float), np.random.default_rng(seed)
    drawn = (rng.integers(len(x), size=len(x)) for _ in range(n))
    taus = np.asarray([kendall_tau(x[i], y[i]) for i in drawn])
    low, high = np.nanquantile(taus, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Regret:
    """Large loss above the best of all, of one pick by each rule."""

    by_small: float  # of the model with the least small loss
    by_params: float  # of the model with the most parameters
    at_random: float  # on average


def regret(small_loss: Sequence[float], params: Sequence[float], large_loss: Sequence[float]) -> Regret:
    """All three are of the same models in the same order."""
    large = np.asarray(large_loss, float)
    best = large.min()
    return Regret(
        by_small=float(large[int(np.argmin(small_loss))] - best),
        by_params=float(large[int(np.argmax(params))] - best),
        at_random=float(large.mean() - best),
    )


def repeated(window: Tensor, n_before: int = 4) -> Tensor:
    """(B, L + 1) bytes -> (B, L): whether a byte and the ``n_before`` before it stood earlier in the row."""
    n = n_before + 1
    grams = window.long().unfold(1, n, 1)  # (B, L + 2 - n, n)
    codes = (grams * 257 ** torch.arange(n, device=window.device)).sum(-1)
    same = codes[:, :, None] == codes[:, None, :]
    earlier = torch.ones(same.shape[1:], dtype=torch.bool, device=window.device).tril(-1)
    found = torch.zeros(window.shape[0], window.shape[1] - 1, dtype=torch.bool, device=window.device)
    found[:, n_before - 1 :] = (same & earlier).any(-1)
    return found
