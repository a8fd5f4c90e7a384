"""Quasiseparable matrices as one structure among others: Hydra's, with one B and one C for both directions.

    M[i, j] = c_{i-1} . b_j dt_j exp(sum of log_decay over j+1 .. i-1) for j < i, its mirror image for j > i

and zero on the diagonal; see ``zoo.ops.quasiseparable``. b and c have H K numbers, which all heads read.
Tokens supply b, c and a step size per head and direction; without data dependence b and c are tables, and
the step size is that of the head. Padding takes no time (dt = 0).

Shapes: B batch, L length, H heads, P head width, K d_qk, N = H K state size, n max_len.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.ops.matrix_structure import Sizes, Structure, Work, widened
from zoo.ops.quasiseparable import (
    OneWay,
    dense_quasiseparable,
    quasiseparable,
    quasiseparable_macs,
    quasiseparable_macs_needed,
)
from zoo.ops.ssd import ssd_macs_spared, step_size_bias


class Quasiseparable(Structure):
    takes_silu = True

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.dt_bias = nn.Parameter(step_size_bias(sizes.n_heads))
        self.A_log = nn.Parameter(torch.zeros(sizes.n_heads))
        if not sizes.data_dependent:
            self.shared = nn.Parameter(torch.empty(sizes.max_len, 2 * sizes.n_heads * sizes.d_qk))
            nn.init.xavier_normal_(self.shared)

    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        ahead, back = self._ways(inputs, steps, mask)
        return quasiseparable(v, ahead, back, chunk_size=self.sizes.chunk_size).to(v.dtype)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        return dense_quasiseparable(*self._ways(inputs, steps, mask))

    def _ways(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> tuple[OneWay, OneWay]:
        B, L, _ = inputs.shape
        H = self.sizes.n_heads
        bias = widened(self.dt_bias)
        if self.sizes.data_dependent:
            dt = F.softplus(widened(steps).view(B, L, 2, H) + bias)  # (B, L, 2, H)
        else:
            dt = F.softplus(bias).expand(B, L, 2, H)
            inputs = self.shared[:L].expand(B, -1, -1)
        if mask is not None:
            dt = dt.masked_fill(~mask[..., None, None], 0.0)
        b, c = inputs.unsqueeze(2).chunk(2, dim=-1)  # (B, L, 1, N)
        log_decay = -dt * widened(self.A_log).exp()
        ahead = OneWay(log_decay[:, :, 0], dt[:, :, 0], b, c)
        return ahead, OneWay(log_decay[:, :, 1], dt[:, :, 1], b, c)

    @classmethod
    def n_steps(cls, sizes: Sizes) -> int:
        """A step size per head and direction."""
        return 2 * sizes.n_heads if sizes.data_dependent else 0

    @classmethod
    def n_params(cls, sizes: Sizes) -> int:
        tables = 0 if sizes.data_dependent else 2 * sizes.max_len * sizes.n_heads * sizes.d_qk
        return tables + 2 * sizes.n_heads

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        as_hydra = {
            "n_heads": sizes.n_heads, "d_head": sizes.d_head, "n_groups": 1,
            "d_state": sizes.n_heads * sizes.d_qk,
        }  # fmt: skip
        macs = batch_size * quasiseparable_macs(length, sizes.chunk_size, **as_hydra)
        needed = batch_size * quasiseparable_macs_needed(length, sizes.chunk_size, **as_hydra)
        elements = batch_size * length * sizes.n_heads * min(sizes.chunk_size, length)
        return Work(macs, needed, 6 * elements, 3 * elements)

    @classmethod
    def backward_macs(cls, sizes: Sizes, length: int, batch_size: int) -> tuple[int, int]:
        d_inner, d_state = sizes.n_heads * sizes.d_head, sizes.n_heads * sizes.d_qk
        spared = ssd_macs_spared(length, sizes.chunk_size, d_inner=d_inner, d_state=d_state)
        done, needed = super().backward_macs(sizes, length, batch_size)
        return done - 2 * batch_size * spared, needed - 2 * batch_size * spared
