"""Average pooling minus the input, without parameters (PoolFormer; Yu et al. 2022, arXiv:2111.11418).

    y_t = mean of x over the window - x_t

The bidirectional window is the ``size`` positions around t, the causal one the ``size`` positions that end
at t (our extension). Positions beyond the ends, and padded ones, are left out of the mean and of its count.

Shapes: B batch, L length, D d_model, W size.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from zoo.contract import Mixer, State


class Pool(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Yu et al. 2022, arXiv:2111.11418"
        kind: Literal["pool"] = "pool"
        size: int = Field(3, ge=1, le=4096, description="positions in the window; odd unless causal")

        def cost(self, ctx: CostContext) -> Cost:
            elements = ctx.tokens * ctx.d_model
            padded = elements + ctx.batch_size * (self.size - 1) * ctx.d_model
            return Cost(
                flops_elementwise=(self.size + 2) * elements,
                bytes_moved=ctx.item_bytes * (5 * elements + 2 * padded),
                activation_bytes=ctx.item_bytes * padded + max(4, ctx.item_bytes) * ctx.seq_len,
                workspace_bytes=ctx.item_bytes * (padded + 2 * elements),
                # The earlier inputs of the window, and how many there are (int64).
                state_bytes=ctx.item_bytes * (self.size - 1) * ctx.d_model + 8 if ctx.causal else 0,
            )

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="switch", decode="constant", mixes_tokens=self.size > 1)

        def misfit(self, site: Site) -> str | None:
            if not site.causal and self.size % 2 == 0:
                return f"'size' is {self.size}, but a window around a token (causal: false) has an odd size"
            return None

        def smells(self, site: Site) -> list[str]:
            if self.size == 1:
                return ["'size' is 1: the mean is the token itself, so this mixer gives zeros"]
            if self.size >= site.seq_len > 1:
                return [f"'size' ({self.size}) is not below the stream's length ({site.seq_len})"]
            return []

    config: Config
    examples: ClassVar = (Config(), Config(size=7), Config(size=1))

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self._before = config.size - 1 if site.causal else config.size // 2
        self._after = config.size - 1 - self._before

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        real = x.new_ones(1, x.shape[1], 1) if mask is None else mask[..., None].to(x.dtype)
        kept = x if mask is None else x.masked_fill(~mask[..., None], 0)
        share = self._window_mean(real).to(torch.promote_types(x.dtype, torch.float32))
        share = share.clamp(min=1 / self.config.size)  # a window of padding alone
        return (self._window_mean(kept) / share).to(x.dtype) - x

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B, L, _ = x.shape
        real = torch.ones(B, L, dtype=torch.bool, device=x.device) if mask is None else mask
        rows = []
        for b in range(B):
            for t in range(L):
                window = range(max(0, t - self._before), min(L, t + self._after + 1))
                kept = [x[b, i] for i in window if real[b, i]]
                mean = torch.stack(kept).mean(0) if kept else torch.zeros_like(x[b, t])
                rows.append(mean - x[b, t])
        return torch.stack(rows).view_as(x)

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        shape = (batch_size, self.config.size - 1, self.site.d_model)
        return {
            "inputs": torch.zeros(
                shape, dtype=dtype, device=device
            ),  # the window before the token, zeros first
            "count": torch.zeros(batch_size, dtype=torch.long, device=device),
        }

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        inputs = torch.cat([state["inputs"], x], dim=1)[:, x.shape[1] :]
        count = (state["count"] + x.shape[1]).clamp(max=self.config.size - 1)
        return self.forward(x), {"inputs": inputs, "count": count}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        window = torch.cat([state["inputs"], x[:, None]], dim=1)  # (B, W, D)
        mean = window.sum(1) / (state["count"] + 1)[:, None]
        count = (state["count"] + 1).clamp(max=self.config.size - 1)
        return mean.to(x.dtype) - x, {"inputs": window[:, 1:], "count": count}

    def _window_mean(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C): the mean over each full window, zeros beyond the ends counted."""
        padded = F.pad(x.transpose(1, 2), (self._before, self._after))
        return F.avg_pool1d(padded, self.config.size, stride=1).transpose(1, 2)
