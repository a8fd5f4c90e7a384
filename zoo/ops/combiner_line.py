"""Tokens along a line, and summaries of each one's part of it: of what comes before it, or after it.

Combiner's mixture pattern (Ren et al. 2021, arXiv:2107.05768) summarises parts of rows and of columns by
running pools; a part's value is what its pooled query reads from the part.

Shapes: B batch, H heads, T tokens of a line, K head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.combiner_summary import Summary, bias_of, softmax


@dataclass(frozen=True)
class Line:
    """Features, keys and values of tokens along lines (B, H, lines, T, K); ``real`` (B or 1, 1, lines, T)."""

    f_q: Tensor
    f_k: Tensor
    k: Tensor
    v: Tensor
    real: Tensor | None

    def transposed(self) -> Line:
        f_q, f_k, k, v = (t.transpose(2, 3) for t in (self.f_q, self.f_k, self.k, self.v))
        return Line(f_q, f_k, k, v, None if self.real is None else self.real.transpose(2, 3))

    def parts(self, summary: Summary, *, after: bool) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each token's part of the line before it, and, if asked for, ``after`` it."""
        parts = [self._before(summary)]
        if after:
            f_q, f_k, k, v = (t.flip(3) for t in (self.f_q, self.f_k, self.k, self.v))
            line = Line(f_q, f_k, k, v, None if self.real is None else self.real.flip(3))
            key, value = line._before(summary)
            parts.append((key.flip(3), value.flip(3)))
        return parts

    def _before(self, summary: Summary) -> tuple[Tensor, Tensor]:
        """(B, H, lines, T, K) twice; of an empty part zeros, or anything finite."""
        T = self.k.shape[3]
        q_part, k_part = (summary.running(t, self.real) for t in (self.f_q, self.f_k))
        sees = torch.ones(T, T, dtype=torch.bool, device=self.k.device).tril()
        if self.real is not None:
            sees = sees & self.real[..., None, :]
            sees = sees | ~sees.any(-1, keepdim=True)
        logits = q_part @ self.k.transpose(-1, -2)
        weights = softmax(logits.add_(bias_of(sees, like=logits))).to(self.v.dtype)
        return _shifted(k_part), _shifted(weights @ self.v)


def _shifted(t: Tensor) -> Tensor:
    """One place later along the line; what is before the first is zero."""
    return F.pad(t, (0, 0, 1, 0))[..., :-1, :]
