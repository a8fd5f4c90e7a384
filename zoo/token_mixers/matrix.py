"""Matrix mixers: one block with a choice of L x L matrices (Hwang et al. 2024, arXiv:2407.09941).

    [z, x, inputs, steps] = in_proj(u);   x, inputs = conv(x, inputs);   x = silu(x)
    y = M x + r x, M made of ``inputs`` and ``steps``, or of tables;   out_proj(rms_norm(y) * silu(z))

Dense, Toeplitz, DFT, Vandermonde, Cauchy, low-rank, attention and quasiseparable matrices stand in the same
block, so that they can be compared; each is defined in ``zoo/ops/matrix_*.py``. The residual r is 1, or
Hydra's data-dependent diagonal W_D x + D. Low-rank, Toeplitz and quasiseparable inputs pass SiLU as x does.

Where M is not data-dependent it is bound to ``max_len`` positions, which also set the scale of its entries
(attention and quasiseparable matrices are not scaled). Padding has x = 0, and attention does not read it.

Causal attention and Toeplitz matrices decode with all values so far, a low-rank matrix with a state of
constant size. The others look ahead in every row, so that no step can give one.

Shapes: B batch, L length, D d_model, I d_inner = expand D, H = I / d_head heads, P d_head, K d_qk, k d_conv;
E inputs and T steps of a token; C = I + E channels of the convolution.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.components import spec_problem
from zoo.contract import Mixer, ParamHint, State
from zoo.ops.grouped_norm import grouped_rms_norm
from zoo.ops.matrix_fourier import Dft, Vandermonde
from zoo.ops.matrix_pairs import Attention, Cauchy, Dense, LowRank
from zoo.ops.matrix_quasiseparable import Quasiseparable
from zoo.ops.matrix_structure import Cache, Sizes, Structure
from zoo.ops.matrix_toeplitz import Toeplitz
from zoo.ops.short_conv import last_inputs, short_conv, short_conv_step

Complexity = Literal["L", "L log L", "L^2"]

_STRUCTURES: dict[str, tuple[type[Structure], Complexity]] = {
    "dense": (Dense, "L^2"),
    "toeplitz": (Toeplitz, "L log L"),
    "dft": (Dft, "L log L"),
    "vandermonde": (Vandermonde, "L^2"),
    "cauchy": (Cauchy, "L^2"),
    "low_rank": (LowRank, "L"),
    "attention": (Attention, "L^2"),
    "quasiseparable": (Quasiseparable, "L"),
}
_Decode = Literal["constant", "growing"]
# Structures with a causal form, and what their decoding keeps.
_DECODE: dict[str, _Decode] = {"toeplitz": "growing", "low_rank": "constant", "attention": "growing"}
_WITHOUT_TOKENS = ("dense", "dft")  # no matrix of the class is made of what tokens supply
_WITHOUT_QK = ("dense", "toeplitz", "dft")
_TRANSFORMS_TABLES = ("toeplitz", "attention")  # a spectrum, scores: of tables, those of every sequence
_WITHOUT_DECAY = ("A_log", "D_skip", "dt_bias", "log_shift", "conv_bias", "norm_weight")


class Matrix(Mixer):
    class Config(MixerConfig):
        paper: ClassVar[str] = "Hwang et al. 2024, arXiv:2407.09941"
        kind: Literal["matrix"] = "matrix"
        structure: Literal[
            "dense", "toeplitz", "dft", "vandermonde", "cauchy", "low_rank", "attention", "quasiseparable"
        ] = Field("quasiseparable", description="class of the matrix that mixes tokens")
        data_dependent: bool = Field(
            True, description="the matrix is made of the tokens; else of tables of max_len positions"
        )
        d_qk: PositiveInt | None = Field(
            None, description="width of a head's queries and keys; default 16 where there are any"
        )
        d_head: PositiveInt = Field(64, description="channels of a head; divides expand * d_model")
        expand: PositiveInt = Field(2, description="inner width over d_model")
        d_conv: int = Field(
            7, ge=1, le=63, description="taps of the depthwise convolution; odd unless causal"
        )
        max_len: int = Field(
            512, ge=1, le=65_536,
            description="greatest length of a matrix of tables; sets the scale of the entries",
        )  # fmt: skip
        residual: Literal["auto", "identity", "diagonal", "none"] = Field(
            "auto",
            description="added to the matrix: identity, Hydra's data-dependent diagonal, or nothing; auto: "
            "the diagonal for quasiseparable, else the identity",
        )
        chunk_size: PositiveInt = Field(
            64, le=4096, description="speed and memory only: rows formed at once, or length of a chunk"
        )
        bias: bool = Field(False, description="biases of the input and output projections")

        @model_validator(mode="after")
        def _structure_has(self) -> Matrix.Config:
            if self.data_dependent and self.structure in _WITHOUT_TOKENS:
                raise spec_problem(
                    f"structure '{self.structure}' has no data-dependent form", "say 'data_dependent: false'"
                )
            if self.d_qk is not None and self.structure in _WITHOUT_QK:
                raise spec_problem(
                    f"structure '{self.structure}' has no queries and keys, got d_qk {self.d_qk}"
                )
            return self

        def n_heads(self, d_model: int) -> int:
            return self.expand * d_model // self.d_head

        @property
        def has_diagonal(self) -> bool:
            is_quasi = self.structure == "quasiseparable"
            return self.residual == "diagonal" or (self.residual == "auto" and is_quasi)

        def sizes(self, d_model: int, *, causal: bool) -> Sizes:
            return Sizes(
                n_heads=self.n_heads(d_model),
                d_head=self.d_head,
                d_qk=self.d_qk or 16,
                max_len=self.max_len,
                data_dependent=self.data_dependent,
                causal=causal and self.structure in _DECODE,
                chunk_size=self.chunk_size,
            )

        def misfit(self, site: Site) -> str | None:
            d_inner = self.expand * site.d_model
            if d_inner % self.d_head:
                return (
                    f"expand {self.expand} * d_model {site.d_model} = {d_inner} is not a multiple of "
                    f"d_head {self.d_head}"
                )
            if not site.causal and self.d_conv % 2 == 0:
                return f"a centered convolution has an odd number of taps, got d_conv {self.d_conv}"
            return None

        def capabilities(self) -> Capabilities:
            _, complexity = _STRUCTURES[self.structure]
            of_pairs = self.data_dependent and self.structure in ("cauchy", "low_rank", "attention")
            return Capabilities(
                causal="switch" if self.structure in _DECODE else "never",
                length_at_most=None if self.data_dependent else self.max_len,
                decode=_DECODE.get(self.structure, "none"),
                exact_softmax=self.structure == "attention",
                needs_position=of_pairs and self.d_conv == 1,
                works_once_per_batch=not self.data_dependent and self.structure in _TRANSFORMS_TABLES,
                complexity=complexity,
                period=self.chunk_size if complexity == "L" else 1,
            )

        def cost(self, ctx: CostContext) -> Cost:
            structure, _ = _STRUCTURES[self.structure]
            sizes = self.sizes(ctx.d_model, causal=ctx.causal)
            D, H = ctx.d_model, sizes.n_heads
            I = self.expand * D  # noqa: E741
            d_conv_in = I + structure.n_inputs(sizes)
            d_in = I + d_conv_in + structure.n_steps(sizes)
            weights = D * d_in + I * D + (I * H if self.has_diagonal else 0)
            params = weights + d_conv_in * (self.d_conv + 1) + structure.n_params(sizes) + I
            params += (H if self.has_diagonal else 0) + self.bias * (d_in + D)
            cache, read = structure.cache(sizes) if sizes.causal else Cache(0), 0
            if ctx.phase == "decode":
                n = ctx.context_len + ctx.seq_len
                work, read = (
                    structure.step_work(sizes, n, ctx.batch_size),
                    ctx.batch_size * n * cache.per_token,
                )
            else:
                work = structure.work(sizes, ctx.seq_len, ctx.batch_size)
            tail = d_conv_in * (self.d_conv - 1) * ctx.item_bytes if sizes.causal else 0
            maps = ctx.tokens * (weights + d_conv_in * self.d_conv)
            wide = max(4, ctx.item_bytes)
            streams = 2 * D + 2 * d_in + 3 * d_conv_in + 8 * I
            return Cost(
                params=params,
                params_active=params,
                flops=2 * (maps + work.macs),
                flops_needed=2 * (maps + work.needed),
                flops_elementwise=ctx.tokens * (5 * d_conv_in + 12 * I) + work.elementwise,
                bytes_moved=ctx.item_bytes * (params + ctx.tokens * streams + read)
                + 2 * wide * work.elements,
                activation_bytes=ctx.item_bytes * ctx.tokens * (D + d_in + 2 * d_conv_in + 5 * I)
                + wide * work.elements,
                workspace_bytes=wide * work.elements,
                kv_bytes_per_token=ctx.item_bytes * cache.per_token,
                state_bytes=tail + wide * cache.wide + cache.position_bytes,
            )

        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            structure, _ = _STRUCTURES[self.structure]
            at = (self.sizes(ctx.d_model, causal=ctx.causal), ctx.seq_len, ctx.batch_size)
            (macs, needed, *_), (back, back_needed) = structure.work(*at), structure.backward_macs(*at)
            done, least = super().backward_flops(ctx, forward)
            return done + 2 * (back - 2 * macs), least + 2 * (back_needed - 2 * needed)

    examples = (
        Config(d_head=8, d_qk=2, chunk_size=16, max_len=40),
        Config(structure="quasiseparable", data_dependent=False, d_head=16, d_qk=1, max_len=33, d_conv=3),
        Config(structure="dense", data_dependent=False, d_head=16, max_len=40),
        Config(structure="toeplitz", d_head=8, max_len=40),
        Config(structure="toeplitz", data_dependent=False, d_head=32, max_len=37, expand=1),
        Config(structure="dft", data_dependent=False, d_head=8, max_len=35, d_conv=1),
        Config(structure="vandermonde", d_head=16, d_qk=3, chunk_size=5, max_len=40),
        Config(structure="vandermonde", data_dependent=False, d_head=16, d_qk=2, max_len=40, bias=True),
        Config(structure="cauchy", d_head=16, d_qk=3, chunk_size=7, max_len=40),
        Config(structure="cauchy", data_dependent=False, d_head=16, d_qk=2, max_len=40),
        Config(structure="low_rank", d_head=8, d_qk=3, chunk_size=6, max_len=40, residual="diagonal"),
        Config(structure="low_rank", data_dependent=False, d_head=16, d_qk=2, max_len=40, d_conv=1),
        Config(structure="attention", d_head=8, d_qk=3, max_len=40),
        Config(structure="attention", d_head=4, d_qk=6, max_len=40, residual="none", d_conv=3),
        Config(structure="attention", data_dependent=False, d_head=16, d_qk=2, chunk_size=9, max_len=40),
    )

    config: Config

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        structure, _ = _STRUCTURES[config.structure]
        sizes = config.sizes(site.d_model, causal=site.causal)
        self.n_heads, self.d_inner = sizes.n_heads, config.expand * site.d_model
        self.n_inputs, self.n_steps = structure.n_inputs(sizes), structure.n_steps(sizes)
        self.d_conv_in = self.d_inner + self.n_inputs
        d_in = self.d_inner + self.d_conv_in + self.n_steps
        self.in_proj = nn.Linear(site.d_model, d_in, bias=config.bias)
        self.conv_weight = nn.Parameter(torch.empty(self.d_conv_in, 1, config.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(self.d_conv_in))
        for parameter in (self.conv_weight, self.conv_bias):
            nn.init.uniform_(parameter, -(config.d_conv**-0.5), config.d_conv**-0.5)
        self.structure = structure(sizes)
        if config.has_diagonal:
            self.D_proj = nn.Linear(self.d_inner, self.n_heads, bias=False)
            self.D_skip = nn.Parameter(torch.ones(self.n_heads))
        self.norm_weight = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, site.d_model, bias=config.bias)

    def param_hints(self) -> dict[str, ParamHint]:
        names = [name for name, _ in self.named_parameters() if name.rpartition(".")[2] in _WITHOUT_DECAY]
        return {name: ParamHint(no_weight_decay=True) for name in names}

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        z, values, inputs, steps = self._inputs(x, mask)
        return self._finish(self.structure(values, inputs, steps, mask), values, z)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        z, values, inputs, steps = self._inputs(x, mask)
        m = self.structure.matrix(inputs, steps, mask)
        y = torch.einsum("bhij,bjhp->bihp", m.expand(x.shape[0], -1, -1, -1), values)
        return self._finish(y, values, z)

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        assert self.site.causal, "a bidirectional layer has no decode state"
        conv = torch.zeros(batch_size, self.d_conv_in, self.config.d_conv - 1, dtype=dtype, device=device)
        return {"conv": conv} | self.structure.init_state(batch_size, dtype=dtype, device=device)

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        z, xs, steps = self._project(x)
        values, inputs = self._parts(short_conv(xs, self.conv_weight, self.conv_bias, causal=True))
        after = {"conv": last_inputs(xs, self.config.d_conv)} | self.structure.remember(values, inputs, state)
        return self._finish(self.structure(values, inputs, steps, None), values, z), after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        z, xs, _ = self._project(x)
        xs, conv = short_conv_step(xs, state["conv"], self.conv_weight, self.conv_bias)
        values, inputs = self._parts(xs)
        y, after = self.structure.step(values, inputs, state)
        return self._finish(y, values, z), {"conv": conv} | after

    def _inputs(self, u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, L, D) -> z (B, L, I), x (B, L, H, P), inputs (B, L, E), steps (B, L, T); x = 0 at padding."""
        z, xs, steps = self._project(u)
        if mask is not None:
            xs = xs.masked_fill(~mask[..., None], 0.0)
        x, inputs = self._parts(short_conv(xs, self.conv_weight, self.conv_bias, causal=self.site.causal))
        if mask is not None:
            x = x.masked_fill(~mask[..., None, None], 0.0)
        return z, x, inputs, steps

    def _project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) or (B, D) -> z (..., I), x and inputs (..., I + E), steps (..., T)."""
        most = self.config.capabilities().length_at_most
        if most is not None and u.dim() == 3 and u.shape[1] > most:
            raise ValueError(f"a matrix of tables takes at most max_len {most} positions, got {u.shape[1]}")
        z, xs, steps = torch.split(self.in_proj(u), [self.d_inner, self.d_conv_in, self.n_steps], dim=-1)
        return z, xs, steps

    def _parts(self, xs: Tensor) -> tuple[Tensor, Tensor]:
        """(..., I + E) -> x (..., H, P), inputs (..., E)."""
        x, inputs = torch.split(xs, [self.d_inner, self.n_inputs], dim=-1)
        inputs = F.silu(inputs) if self.structure.takes_silu else inputs
        return F.silu(x).view(*x.shape[:-1], self.n_heads, -1), inputs

    def _finish(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """M x and x (..., H, P), z (..., I) -> (..., D): the residual, then the norm, then the gate."""
        if self.config.has_diagonal:
            diagonal = self.D_proj(x.flatten(-2)) + self.D_skip  # (..., H)
            y = y + diagonal[..., None] * x
        elif self.config.residual != "none":
            y = y + x
        y = grouped_rms_norm(y.flatten(-2), self.norm_weight)
        return self.out_proj((y * F.silu(z)).to(z.dtype))
