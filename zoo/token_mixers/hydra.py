"""Hydra: bidirectional state-space mixing by a quasiseparable matrix (Hwang et al. 2024, arXiv:2407.09941).

    [z, x, B C ahead, B C back, dt ahead, dt back] = in_proj(u);   x B C = silu(conv(x B C)), centered
    y = M x + (W_D x + D) x, M as in ``zoo.ops.quasiseparable``;   out_proj(rms_norm(y) * silu(z))

Both directions share ``dt_bias`` and A = -exp(A_log). As in the published code, row i reads with C of its
neighbour (i - 1 ahead, i + 1 back), and the norm comes before the gate. Padding has x = 0 and dt = 0, so that
nothing of it enters the scan from the right: that is all in which the published code differs.

The paper's ablations: ``shift: false`` reads with C of the position itself, and ``diagonal: false`` leaves D
alone. Both off is the plain sum of two scans, its "Add". With ``combine: multiply`` or ``concat`` each scan
has the diagonal for itself; their outputs are multiplied, or stand side by side for one norm, under a gate
that serves both. All of these take two passes. A learned initial state serves both directions.

Shapes: B batch, L length, D d_model, I d_inner = expand D, H = I / d_head heads, P d_head, G n_groups,
N d_state, k d_conv; C = I + 4 G N channels of the convolution.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from zoo.contract import Mixer, ParamHint
from zoo.ops.grouped_norm import grouped_rms_norm
from zoo.ops.quasiseparable import (
    OneWay,
    dense_scans,
    dense_state,
    quasiseparable,
    quasiseparable_macs,
    quasiseparable_macs_needed,
    scans,
)
from zoo.ops.short_conv import short_conv
from zoo.ops.ssd import ssd_macs, ssd_macs_needed, ssd_macs_spared, step_size_bias


class Hydra(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Hwang et al. 2024, arXiv:2407.09941"
        kind: Literal["hydra"] = "hydra"
        d_state: PositiveInt = Field(64, description="size of the state beside each channel")
        d_head: PositiveInt = Field(64, description="channels of a head; divides expand * d_model")
        n_groups: PositiveInt = Field(1, description="groups of heads that share B and C")
        expand: PositiveInt = Field(2, description="inner width over d_model")
        d_conv: int = Field(7, ge=1, le=63, description="taps of the centered depthwise convolution; odd")
        chunk_size: PositiveInt = Field(
            64, le=4096, description="speed and memory only; the result is the same"
        )
        shift: bool = Field(
            True, description="scans see the neighbours alone; false: both see the token itself too"
        )
        diagonal: bool = Field(
            True, description="a token's own weight depends on the token; false: one learned weight per head"
        )
        combine: Literal["add", "multiply", "concat"] = Field(
            "add",
            description="what becomes of both scans: their sum (quasiseparable with shift and diagonal), "
            "their product, or both side by side, with an output projection twice as large",
        )
        initial_state: Literal["zero", "learned"] = Field(
            "zero", description="state before either scan begins; learned: one per head, for both"
        )
        bias: bool = Field(False, description="biases of the input and output projections")

        @model_validator(mode="after")
        def _centered(self) -> Hydra.Config:
            if self.d_conv % 2 == 0:
                raise spec_problem(
                    f"a centered convolution has an odd number of taps, got d_conv {self.d_conv}"
                )
            return self

        def n_heads(self, d_model: int) -> int:
            return self.expand * d_model // self.d_head

        @property
        def is_quasiseparable(self) -> bool:
            """Whether both scans are one matrix, whose product takes one pass."""
            return self.shift and self.combine == "add"

        def d_combined(self, d_model: int) -> int:
            return self.expand * d_model * (2 if self.combine == "concat" else 1)

        def misfit(self, site: Site) -> str | None:
            d_inner = self.expand * site.d_model
            if d_inner % self.d_head:
                return (
                    f"expand {self.expand} * d_model {site.d_model} = {d_inner} is not a multiple of "
                    f"d_head {self.d_head}"
                )
            if (n_heads := d_inner // self.d_head) % self.n_groups:
                return (
                    f"{n_heads} heads (expand * d_model {d_inner} / d_head {self.d_head}) cannot form "
                    f"n_groups {self.n_groups}"
                )
            return None

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="never", decode="none", complexity="L", period=self.chunk_size)

        def cost(self, ctx: CostContext) -> Cost:
            D, N, H = ctx.d_model, self.d_state, self.n_heads(ctx.d_model)
            I = self.expand * D  # noqa: E741
            d_out = self.d_combined(D)
            d_conv_in = I + 4 * self.n_groups * N
            d_in = I + d_conv_in + 2 * H
            weights = D * d_in + d_out * D + self.diagonal * I * H
            params = weights + d_conv_in * (self.d_conv + 1) + 3 * H + d_out + self.bias * (d_in + D)
            params += I * N if self.initial_state == "learned" else 0
            sizes = {"n_heads": H, "d_head": self.d_head, "n_groups": self.n_groups, "d_state": N}
            if self.is_quasiseparable:
                scan = quasiseparable_macs(ctx.seq_len, self.chunk_size, **sizes)
                needed = quasiseparable_macs_needed(ctx.seq_len, self.chunk_size, **sizes)
            else:  # two passes
                scan = 2 * ssd_macs(ctx.seq_len, self.chunk_size, **sizes)
                needed = 2 * ssd_macs_needed(ctx.seq_len, self.chunk_size, **sizes)
            maps = ctx.tokens * (weights + d_conv_in * self.d_conv)
            chunk = min(ctx.seq_len, self.chunk_size)
            matrices = ctx.tokens * chunk * (3 * H + 2 * self.n_groups)
            wide = max(4, ctx.item_bytes)
            streams = 2 * D + 2 * d_in + 3 * d_conv_in + 3 * I + 3 * d_out
            return Cost(
                params=params,
                params_active=params,
                flops=2 * (maps + ctx.batch_size * scan),
                flops_needed=2 * (maps + ctx.batch_size * needed),
                flops_elementwise=ctx.tokens * (5 * d_conv_in + 12 * I + 8 * d_out + 16 * H + 6 * H * chunk),
                bytes_moved=ctx.item_bytes * (params + ctx.tokens * streams) + 2 * wide * matrices,
                activation_bytes=ctx.item_bytes * ctx.tokens * (D + d_in + 2 * d_conv_in + 3 * I + 3 * d_out)
                + wide * matrices,
                workspace_bytes=wide * matrices,
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            d_inner = self.expand * ctx.d_model
            is_learned = self.initial_state == "learned"
            spared = 2 * ssd_macs_spared(  # in both directions
                ctx.seq_len, self.chunk_size, d_inner=d_inner, d_state=self.d_state, learned_state=is_learned
            )
            done, needed = super().backward_flops(ctx, forward)
            return done - 2 * ctx.batch_size * spared, needed - 2 * ctx.batch_size * spared

    examples = (
        Config(d_state=8, d_head=8, chunk_size=16),
        Config(d_state=3, d_head=4, n_groups=2, expand=3, d_conv=3, chunk_size=5, bias=True),
        Config(d_state=1, d_head=2, expand=1, d_conv=1, chunk_size=1),
        Config(d_state=3, d_head=8, n_groups=2, chunk_size=7, shift=False, diagonal=False),
        Config(d_state=4, d_head=8, chunk_size=6, initial_state="learned"),
        Config(d_state=2, d_head=16, d_conv=3, chunk_size=9, shift=False, diagonal=False, combine="multiply"),
        Config(d_state=3, d_head=8, n_groups=2, chunk_size=8, combine="concat", initial_state="learned"),
    )

    config: Config

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.d_inner = config.expand * site.d_model
        self.n_heads = config.n_heads(site.d_model)
        self.d_shared = config.n_groups * config.d_state  # width of one B, or of one C
        self.d_conv_in = self.d_inner + 4 * self.d_shared
        d_in = self.d_inner + self.d_conv_in + 2 * self.n_heads
        self.in_proj = nn.Linear(site.d_model, d_in, bias=config.bias)
        self.conv_weight = nn.Parameter(torch.empty(self.d_conv_in, 1, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(self.d_conv_in))
        for parameter in (self.conv_weight, self.conv_bias):
            nn.init.uniform_(parameter, -(config.d_conv**-0.5), config.d_conv**-0.5)
        self.dt_bias = nn.Parameter(step_size_bias(self.n_heads))
        self.A_log = nn.Parameter(torch.zeros(self.n_heads))
        self.D_proj = nn.Linear(self.d_inner, self.n_heads, bias=False) if config.diagonal else None
        self.D_skip = nn.Parameter(torch.ones(self.n_heads))
        is_learned = config.initial_state == "learned"
        state = torch.zeros(self.n_heads, config.d_state, config.d_head)
        self.state = nn.Parameter(state) if is_learned else None
        self.norm_weight = nn.Parameter(torch.ones(config.d_combined(site.d_model)))
        self.out_proj = nn.Linear(config.d_combined(site.d_model), site.d_model, bias=config.bias)

    def param_hints(self) -> dict[str, ParamHint]:
        without_decay = {"A_log", "D_skip", "dt_bias", "conv_bias", "norm_weight", "state"}
        names = [name for name, _ in self.named_parameters() if name in without_decay]
        return {name: ParamHint(no_weight_decay=True) for name in names}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        z, values, ahead, back = self._inputs(x, mask)
        size, shift = self.config.chunk_size, self.config.shift
        if self.config.is_quasiseparable:
            y = quasiseparable(values, ahead, back, chunk_size=size, state=self.state)
            return self._finish(y, x=values, z=z)
        ys = scans(values, ahead, back, chunk_size=size, shift=shift, state=self.state)
        return self._finish(*ys, x=values, z=z)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        z, values, ahead, back = self._inputs(x, mask)
        shift = self.config.shift
        ys = [torch.einsum("bhij,bjhp->bihp", m, values) for m in dense_scans(ahead, back, shift=shift)]
        if self.state is not None:
            begun = dense_state(ahead, back, self.state, shift=shift)
            ys = [y + more for y, more in zip(ys, begun)]
        return self._finish(*ys, x=values, z=z)

    def _inputs(self, u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, OneWay, OneWay]:
        """(B, L, D) -> z (B, L, I), x (B, L, H, P) and both directions; padding gets x = 0 and dt = 0."""
        B, L, _ = u.shape
        z, xbc, dt = torch.split(self.in_proj(u), [self.d_inner, self.d_conv_in, 2 * self.n_heads], dim=-1)
        if mask is not None:
            xbc = xbc.masked_fill(~mask[..., None], 0.0)
        xbc = F.silu(short_conv(xbc, self.conv_weight, self.conv_bias, causal=False))
        wide = torch.promote_types(dt.dtype, torch.float32)
        dt = F.softplus(dt.to(wide).view(B, L, 2, -1) + self.dt_bias.to(wide))
        x, *shared = torch.split(xbc, [self.d_inner, *[self.d_shared] * 4], dim=-1)
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0.0)
            dt = dt.masked_fill(~mask[..., None, None], 0.0)
            if self.state is not None:  # the first token reads none of it, behind padding neither
                shared = [t.masked_fill(~mask[..., None], 0.0) for t in shared]
        b_ahead, c_ahead, b_back, c_back = (t.view(B, L, self.config.n_groups, -1) for t in shared)
        log_decay = -dt * self.A_log.to(wide).exp()
        ahead = OneWay(log_decay[:, :, 0], dt[:, :, 0], b_ahead, c_ahead)
        back = OneWay(log_decay[:, :, 1], dt[:, :, 1], b_back, c_back)
        return z, x.view(B, L, self.n_heads, -1), ahead, back

    def _finish(self, *ys: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Both scans of x, or their sum, and x, (B, L, H, P); z (B, L, I) -> (B, L, D).

        The diagonal, what becomes of both, then the norm, then the gate.
        """
        diagonal = self.D_skip  # (H,)
        if self.D_proj is not None:
            diagonal = self.D_proj(x.flatten(-2)) + diagonal  # (B, L, H)
        own = diagonal[..., None] * x
        if self.config.combine == "add":
            y = sum(ys, own).flatten(-2)
        elif self.config.combine == "multiply":
            y = ((ys[0] + own) * (ys[1] + own)).flatten(-2)
        else:
            y, z = torch.cat([(y + own).flatten(-2) for y in ys], dim=-1), torch.cat([z, z], dim=-1)
        y = grouped_rms_norm(y, self.norm_weight)  # (B, L, I), or 2 I side by side
        return self.out_proj((y * F.silu(z)).to(z.dtype))
