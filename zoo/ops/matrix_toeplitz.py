"""Toeplitz matrices: an entry depends on its distance from the diagonal alone; a long convolution.

    M[i, j] = c r_{i - j},    c = 1 / (2 sqrt(n))

Without data dependence r is a table per head. With it, token l supplies r_l and r_{-l}: so the matrix grows
with the sequence, and its leading part does not change. (In the published code the main diagonal takes r_1
and the first one above it r_0; here every lag stands where it belongs.)

The product is one circular convolution of length 2 L by FFT, in float32 at least. A causal matrix has no
r_{-l}. Shapes: B batch, L length, H heads, P head width, n max_len.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archspec.cost import fft_flops
from zoo.ops.matrix_structure import Sizes, Structure, Work, widened


class Toeplitz(Structure):
    takes_silu = True

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self.scale = 0.5 * sizes.max_len**-0.5
        if not sizes.data_dependent:
            self.lags = nn.Parameter(torch.empty(sizes.n_heads, _n_lags(sizes)))
            nn.init.xavier_uniform_(self.lags)

    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        ahead, back = self._lags(inputs)
        L = v.shape[1]
        circular = F.pad(ahead, (0, L))  # (B or 1, H, 2 L): lag l at l, lag -l at 2 L - l
        if back is not None:
            circular = torch.cat([ahead, back.new_zeros(*back.shape[:2], 1), back.flip(-1)], dim=-1)
        x = widened(v.permute(0, 2, 3, 1)).contiguous()  # (B, H, P, L)
        spectrum = torch.fft.rfft(x, n=2 * L) * torch.fft.rfft(circular, n=2 * L)[:, :, None]
        y = torch.fft.irfft(spectrum, n=2 * L)[..., :L]
        return (self.scale * y).permute(0, 3, 1, 2).to(v.dtype)

    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        ahead, back = self._lags(inputs)
        L = inputs.shape[1]
        i = torch.arange(L, device=inputs.device)
        lag = i[:, None] - i
        m = torch.where(lag >= 0, ahead[..., lag.clamp(min=0)], 0.0)
        if back is not None and L > 1:
            m = m + torch.where(lag < 0, back[..., (-lag - 1).clamp(min=0)], 0.0)
        return self.scale * m

    def _lags(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, L, E) -> r_0 .. r_{L-1}, (B or 1, H, L), and r_{-1} .. r_{-(L-1)} unless causal."""
        L, n, causal = inputs.shape[1], self.sizes.max_len, self.sizes.causal
        if self.sizes.data_dependent:
            supplied = widened(inputs).transpose(1, 2)  # (B, E, L)
            if causal:
                return supplied, None
            ahead, back = supplied.chunk(2, dim=1)
            return ahead, back[..., 1:]
        table = widened(self.lags)[None]
        if causal:
            return table[..., :L], None
        return table[..., n - 1 : n - 1 + L], table[..., n - L : n - 1].flip(-1)

    def last_row(self, inputs: Tensor, kept: Tensor) -> Tensor:
        if self.sizes.data_dependent:
            lags = widened(kept).transpose(1, 2)  # (B, H, n)
        else:
            lags = widened(self.lags)[None, :, : kept.shape[1]]
        return self.scale * lags.flip(-1)[:, :, None]

    @classmethod
    def n_kept(cls, sizes: Sizes) -> int:
        """A causal matrix reads all that a token supplies."""
        return cls.n_inputs(sizes)

    @classmethod
    def n_inputs(cls, sizes: Sizes) -> int:
        """One number per head for each lag that a token supplies."""
        return sizes.n_heads * (1 if sizes.causal else 2) if sizes.data_dependent else 0

    @classmethod
    def n_params(cls, sizes: Sizes) -> int:
        return 0 if sizes.data_dependent else sizes.n_heads * _n_lags(sizes)

    @classmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        d_inner = sizes.n_heads * sizes.d_head
        kernels = sizes.n_heads * (batch_size if sizes.data_dependent else 1)
        macs = (2 * batch_size * d_inner + kernels) * (fft_flops(2 * length, real=True) // 2)
        elements = 4 * batch_size * d_inner * length
        return Work(macs, macs, 2 * elements, elements)

    @classmethod
    def backward_macs(cls, sizes: Sizes, length: int, batch_size: int) -> tuple[int, int]:
        """The inverse transform's gradient is a real transform, those of the other two are complex ones."""
        d_inner = sizes.n_heads * sizes.d_head
        kernels = sizes.n_heads * (batch_size if sizes.data_dependent else 1)
        real, full = fft_flops(2 * length, real=True), fft_flops(2 * length)
        macs = (batch_size * d_inner * real + (batch_size * d_inner + kernels) * full) // 2
        return macs, macs


def _n_lags(sizes: Sizes) -> int:
    return sizes.max_len if sizes.causal else 2 * sizes.max_len - 1
