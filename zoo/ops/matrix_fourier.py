"""Matrices of cosines: the real part of the discrete Fourier transform, and sums of Vandermonde matrices.

    DFT:          M[i, j] = c cos(2 pi i j / n),                                     c = 1 / sqrt(n)
    Vandermonde:  M[i, j] = c sum_d [cos(2 pi e q_id j) - cos(2 pi e k_jd i)],        c = 1 / sqrt(2 n K)

The DFT (as in FNet, Lee-Thorp et al. 2021, arXiv:2105.03824) has no parameters; its period is n whatever the
length, so a shorter sequence takes the leading part. Vandermonde: e = 1/1000 for queries and keys of tokens.
Tables hold frequencies in cycles per position, so e = 1, and begin uniform in [0, 1/2]: at the published
start, all zero, every gradient vanishes. (The published product with tables scales each position and mixes
nothing; this is the matrix that the paper writes.)

The Vandermonde product forms a block of rows at a time, in float32 at least; subquadratic algorithms exist
but are not kept here. Shapes: B batch, L length, H heads, P head width, K d_qk, R rows, n max_len.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archspec.cost import fft_flops
from zoo.ops.matrix_structure import Pairs, Sizes, Structure, Work, multiply_by_rows, rows_work, widened

TOKEN_FREQUENCY = 1e-3  # cycles per position of a query that is 1


class Dft(Structure):
    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        n = self.sizes.max_len
        half = torch.fft.rfft(widened(v.permute(0, 2, 3, 1)).contiguous(), n=n).real  # (B, H, P, n // 2 + 1)
        row = torch.arange(v.shape[1], device=v.device)
        y = half.index_select(-1, torch.minimum(row, n - row)) * n**-0.5  # row n - i of a cosine is row i
        return y.permute(0, 3, 1, 2).to(v.dtype)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        n = self.sizes.max_len
        i = torch.arange(inputs.shape[1], device=inputs.device)
        turns = (i[:, None] * i % n).to(widened(inputs).dtype) / n
        m = torch.cos(2 * math.pi * turns) * n**-0.5
        return m.expand(1, self.sizes.n_heads, -1, -1)

    @classmethod
    def n_inputs(cls, sizes: Sizes) -> int:
        return 0

    @classmethod
    def n_params(cls, sizes: Sizes) -> int:
        return 0

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        channels = batch_size * sizes.n_heads * sizes.d_head
        macs = channels * (fft_flops(sizes.max_len, real=True) // 2)
        elements = channels * (sizes.max_len + length)
        return Work(macs, macs, elements, elements)

    @classmethod
    def backward_macs(cls, sizes: Sizes, length: int, batch_size: int) -> tuple[int, int]:
        """The gradient of a real transform is a complex one."""
        macs = batch_size * sizes.n_heads * sizes.d_head * (fft_flops(sizes.max_len) // 2)
        return macs, macs


class Vandermonde(Pairs):
    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.scale = (2 * sizes.max_len * sizes.d_qk) ** -0.5
        self.frequency = TOKEN_FREQUENCY if sizes.data_dependent else 1.0
        if not sizes.data_dependent:
            for table in (self.queries, self.keys):
                nn.init.uniform_(table, 0.0, 0.5)

    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        q, k = self._angles(inputs)
        position = torch.arange(inputs.shape[1], device=q.device, dtype=q.dtype)

        def rows(start: int, stop: int) -> Tensor:
            mine = (q[:, :, start:stop, None] * position[:, None]).cos().sum(-1)  # (B, H, R, L)
            theirs = (k[:, :, None] * position[start:stop, None, None]).cos().sum(-1)
            return self.scale * (mine - theirs)

        return multiply_by_rows(rows, v, at_once=self.sizes.chunk_size)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        q, k = self._angles(inputs)
        position = torch.arange(inputs.shape[1], device=q.device, dtype=q.dtype)
        by_query = torch.cos(torch.einsum("bhid,j->bhijd", q, position)).sum(-1)
        by_key = torch.cos(torch.einsum("bhjd,i->bhijd", k, position)).sum(-1)
        return self.scale * (by_query - by_key)

    def _angles(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What a query and a key turn per position, in radians: (B or 1, H, L, K)."""
        q, k = self.pair(inputs)
        turn = 2 * math.pi * self.frequency
        return turn * widened(q), turn * widened(k)

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        return rows_work(sizes, length, batch_size, per_term=6)
