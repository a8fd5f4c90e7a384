"""Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): a gated recurrence with one input-dependent decay per head.

z, x, B, C, dt = W_in u; x, B, C = silu(conv(x, B, C)); dt = softplus(dt + dt_bias); a = exp(-dt exp(A_log));
S_t = a_t S_{t-1} + B_t (dt_t x_t)^T; y_t = S_t^T C_t + D x_t; out = W_out norm(y silu(z)): the gate comes
before the norm. ``D_skip`` is the paper's D.

With ``negative_eigenvalues`` the decay is 2 a - 1, in (-1, 1): a short step keeps the state, a long one turns
its sign, and parity becomes learnable. Decays then begin uniform over (-1, 1) instead of close to 1, and step
sizes depend more on the token: with the usual initialisation many seeds do not find the sign.

Shapes: B batch, L length, D d_model, I = expand D inner width, P d_head, H = I / P heads, G n_groups,
N d_state.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from zoo.contract import Mixer, ParamHint, State
from zoo.ops.grouped_norm import grouped_rms_norm
from zoo.ops.short_conv import last_inputs, short_conv, short_conv_step
from zoo.ops.ssd import (
    inverse_softplus,
    signed_decay,
    signed_ssd,
    ssd,
    ssd_macs,
    ssd_macs_needed,
    ssd_macs_spared,
    ssd_step,
    step_size_bias,
)

SIGNED_DT_GAIN = 4.0  # how much larger than usual the weights of signed decays' step sizes begin


class Mamba2(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Dao & Gu 2024, arXiv:2405.21060"
        kind: Literal["mamba2"] = "mamba2"
        d_state: PositiveInt = Field(128, description="size of the state beside each channel")
        d_head: PositiveInt = Field(64, description="channels of a head; divides expand * d_model")
        n_groups: PositiveInt = Field(1, description="groups of heads that share B and C")
        expand: PositiveInt = Field(2, description="inner width over d_model")
        d_conv: int = Field(4, ge=1, le=64, description="taps of the causal depthwise convolution")
        negative_eigenvalues: bool = Field(
            False, description="decays in (-1, 1) instead of (0, 1); parity needs it"
        )
        chunk_size: PositiveInt = Field(
            64, le=4096, description="speed and memory only; the result is the same"
        )
        bias: bool = Field(False, description="biases of the input and output projections")

        def n_heads(self, d_model: int) -> int:
            return self.expand * d_model // self.d_head

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
            return Capabilities(causal="always", decode="constant", complexity="L", period=self.chunk_size)

        def cost(self, ctx: CostContext) -> Cost:
            D, N, H = ctx.d_model, self.d_state, self.n_heads(ctx.d_model)
            I = self.expand * D  # noqa: E741
            d_conv_in = I + 2 * self.n_groups * N
            d_in = I + d_conv_in + H
            weights = D * d_in + I * D
            params = weights + d_conv_in * (self.d_conv + 1) + 3 * H + I + self.bias * (d_in + D)
            if ctx.phase == "decode":
                scan = needed = I * N
                elementwise = 3 * I * N
                intermediate = 0
            else:
                sizes = {"n_heads": H, "d_head": self.d_head, "n_groups": self.n_groups, "d_state": N}
                scan = ssd_macs(ctx.seq_len, self.chunk_size, **sizes)
                needed = ssd_macs_needed(ctx.seq_len, self.chunk_size, **sizes)
                chunk = min(ctx.seq_len, self.chunk_size)
                elementwise = ctx.seq_len * 5 * H * chunk
                intermediate = ctx.seq_len * (2 * H * chunk + self.n_groups * chunk + 3 * I) + 2 * I * N
            maps = ctx.tokens * (weights + d_conv_in * self.d_conv)
            streams = (
                2 * D + 2 * d_in + 3 * d_conv_in + 4 * I
            )  # elements of a position that are written or read
            wide = max(4, ctx.item_bytes)
            return Cost(
                params=params,
                params_active=params,
                flops=2 * (maps + ctx.batch_size * scan),
                flops_needed=2 * (maps + ctx.batch_size * needed),
                flops_elementwise=ctx.tokens * (5 * d_conv_in + 12 * I + 8 * H)
                + ctx.batch_size * elementwise,
                bytes_moved=ctx.item_bytes * (params + ctx.tokens * streams)
                + 2 * wide * ctx.batch_size * (intermediate or I * N),
                activation_bytes=ctx.item_bytes * ctx.tokens * (D + d_in + 2 * d_conv_in + 4 * I)
                + wide * ctx.batch_size * intermediate,
                workspace_bytes=wide * ctx.batch_size * intermediate,
                state_bytes=wide * I * N + d_conv_in * (self.d_conv - 1) * ctx.item_bytes,
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            spared = ssd_macs_spared(
                ctx.seq_len, self.chunk_size, d_inner=self.expand * ctx.d_model, d_state=self.d_state
            )
            done, needed = super().backward_flops(ctx, forward)
            return done - 2 * ctx.batch_size * spared, needed - 2 * ctx.batch_size * spared

    examples = (
        Config(d_state=8, d_head=8, chunk_size=16),
        Config(
            d_state=3,
            d_head=4,
            n_groups=2,
            expand=3,
            d_conv=3,
            chunk_size=5,
            negative_eigenvalues=True,
            bias=True,
        ),
        Config(d_state=1, d_head=2, expand=1, d_conv=1, chunk_size=1),
    )

    config: Config

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.d_inner = config.expand * site.d_model
        self.n_heads = config.n_heads(site.d_model)
        self.d_shared = config.n_groups * config.d_state  # width of B, and of C
        self.d_conv_in = self.d_inner + 2 * self.d_shared
        self.in_proj = nn.Linear(site.d_model, self.d_inner + self.d_conv_in + self.n_heads, bias=config.bias)
        self.conv_weight = nn.Parameter(torch.empty(self.d_conv_in, 1, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(self.d_conv_in))
        for parameter in (self.conv_weight, self.conv_bias):
            nn.init.uniform_(parameter, -(config.d_conv**-0.5), config.d_conv**-0.5)
        self.dt_bias = nn.Parameter(step_size_bias(self.n_heads))
        self.A_log = nn.Parameter(torch.empty(self.n_heads).uniform_(1, 16).log())
        self.D_skip = nn.Parameter(torch.ones(self.n_heads))
        self.norm_weight = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, site.d_model, bias=config.bias)
        if config.negative_eigenvalues:
            with torch.no_grad():
                exponent = -torch.empty(self.n_heads).uniform_(0.01, 0.99).log()  # dt times the decay rate
                self.dt_bias.copy_(inverse_softplus(exponent / self.A_log.exp()))
                self.in_proj.weight[-self.n_heads :] *= SIGNED_DT_GAIN

    def param_hints(self) -> dict[str, ParamHint]:
        names = ("A_log", "D_skip", "dt_bias", "conv_bias", "norm_weight")
        return {name: ParamHint(no_weight_decay=True) for name in names}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._scan(x, mask)[0]

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        z, xbc, dt = self._project(x)
        if mask is not None:
            xbc = xbc * mask[..., None]
        xbc = short_conv(xbc, self.conv_weight, self.conv_bias, causal=True)
        values, b, c, dt = self._inputs(xbc, dt, mask)
        state = x.new_zeros(x.shape[0], self.n_heads, self.config.d_state, self.config.d_head)
        ys = []
        scaled, decay = values * dt[..., None], self._decay(dt)
        for x_t, decay_t, b_t, c_t in zip(scaled.unbind(1), decay.unbind(1), b.unbind(1), c.unbind(1)):
            y, state = ssd_step(x_t, decay_t, b_t, c_t, state)
            ys.append(y)
        return self._finish(torch.stack(ys, dim=1), values, z)

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        wide = torch.promote_types(dtype, torch.float32)
        ssm = torch.zeros(
            batch_size, self.n_heads, self.config.d_state, self.config.d_head, dtype=wide, device=device
        )
        conv = torch.zeros(batch_size, self.d_conv_in, self.config.d_conv - 1, dtype=dtype, device=device)
        return {"ssm": ssm, "conv": conv}

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, ssm, xbc = self._scan(x, None)
        return y, {"ssm": ssm, "conv": last_inputs(xbc, self.config.d_conv)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        z, xbc, dt = self._project(x)
        xbc, conv = short_conv_step(xbc, state["conv"], self.conv_weight, self.conv_bias)
        values, b, c, dt = self._inputs(xbc, dt, None)
        y, ssm = ssd_step(values * dt[..., None], self._decay(dt), b, c, state["ssm"])
        return self._finish(y, values, z), {"ssm": ssm, "conv": conv}

    def _scan(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> the output, the last state (B, H, N, P), and the convolution's inputs."""
        z, xbc, dt = self._project(x)
        if mask is not None:
            xbc = xbc.masked_fill(~mask[..., None], 0.0)
        convolved = short_conv(xbc, self.conv_weight, self.conv_bias, causal=True)
        values, b, c, dt = self._inputs(convolved, dt, mask)
        scaled = (values * dt[..., None]).to(values.dtype)
        chunk_size = self.config.chunk_size
        if self.config.negative_eigenvalues:
            sign, log_magnitude = signed_decay(self._log_decay(dt))
            y, state = signed_ssd(scaled, sign, log_magnitude, b, c, chunk_size=chunk_size)
        else:
            y, state = ssd(scaled, self._log_decay(dt), b, c, chunk_size=chunk_size)
        return self._finish(y, values, z), state, xbc

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., D) -> z (..., I), x B C (..., I + 2 G N), dt (..., H)."""
        z, xbc, dt = torch.split(self.in_proj(x), [self.d_inner, self.d_conv_in, self.n_heads], dim=-1)
        return z, xbc, dt

    def _inputs(self, xbc: Tensor, dt: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> x (..., H, P), B and C (..., G, N), dt (..., H) in fp32; padding gets x = 0 and dt = 0."""
        x, b, c = torch.split(F.silu(xbc), [self.d_inner, self.d_shared, self.d_shared], dim=-1)
        wide = torch.promote_types(dt.dtype, torch.float32)
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide))
        if mask is not None:
            x, dt = (t.masked_fill(~mask[..., None], 0.0) for t in (x, dt))
        at, G = xbc.shape[:-1], self.config.n_groups
        return x.view(*at, self.n_heads, -1), b.view(*at, G, -1), c.view(*at, G, -1), dt

    def _decay(self, dt: Tensor) -> Tensor:
        """What a step of length dt multiplies the state with."""
        if not self.config.negative_eigenvalues:
            return self._log_decay(dt).exp()
        sign, log_magnitude = signed_decay(self._log_decay(dt))
        return sign * log_magnitude.exp()

    def _log_decay(self, dt: Tensor) -> Tensor:
        return -dt * self.A_log.to(dt.dtype).exp()

    def _finish(self, y: Tensor, values: Tensor, z: Tensor) -> Tensor:
        """y and x (..., H, P), z (..., I) -> (..., D)."""
        y = (y + self.D_skip[:, None] * values).flatten(-2)
        y = grouped_rms_norm(y * F.silu(z), self.norm_weight, self.config.n_groups)
        return self.out_proj(y.to(z.dtype))
