"""Token ids to vectors: a table; positions, token types, cls token, norm and a narrower table are options.

    x_t = norm(scale * dense(table[id_t] + types[0]) + positions[t])

``d_embed`` makes the table narrower than the model and adds a dense map with bias (as Routing Transformer's
models do). Token types exist for models trained with them; a stream is all of type 0. A cls token is a
learned vector put first; it has a position of its own. With ``axes`` a learned position is the sum of one
vector per coordinate; ``n_tables`` token tables are taken in turn, as one for each channel of an image's
bytes. With sinusoidal positions, ``scale`` defaults to ``sqrt_d_model``, so that the positions do not drown
the tokens. Initialisation: normal with ``init_std``, also positions and types.

Shapes: B batch, L length, D d_model, E d_embed (or D), V vocab_size.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, Input, Site, TokenInput
from archspec.components import spec_problem
from archspec.inputs import Width
from zoo.contract import ParamHint, Stem, StemConfig
from zoo.norms import InnerNorm, LayerNorm, RMSNorm, build_norm
from zoo.ops.positions import AbsolutePositions, Positions


class Embedding(Stem):
    class Config(StemConfig):
        kind: Literal["embedding"] = "embedding"
        positions: Positions = Field(
            "none", description="absolute positions; learned: one vector per position"
        )
        norm: InnerNorm | None = Field(None, description="normalises the sum of tokens, types and positions")
        n_token_types: int = Field(
            0, ge=0, le=1024, description="rows of a token-type table; all tokens use row 0"
        )
        d_embed: Width | None = Field(
            None, description="width of the table; then a dense map to d_model follows"
        )
        axes: tuple[PositiveInt, ...] | None = Field(
            None,
            min_length=1,
            max_length=8,
            description="learned positions are sums of a vector per coordinate on axes of these sizes",
        )
        n_tables: int = Field(
            1, ge=1, le=64, description="token tables, taken in turn: position t reads table t mod n_tables"
        )
        cls_token: bool = Field(False, description="prepend a learned position")
        scale: Literal["none", "sqrt_d_model"] = Field("none", description="factor on the token vectors")
        init_std: float = Field(
            0.02, gt=0, le=10, description="standard deviation of the tables at the start"
        )

        @model_validator(mode="before")
        @classmethod
        def _scale_beside_sinusoids(cls, value: Any) -> Any:
            if isinstance(value, dict) and value.get("positions") == "sinusoidal":
                return {"scale": "sqrt_d_model", **value}
            return value

        @model_validator(mode="after")
        def _axes_of_learned_positions(self) -> Embedding.Config:
            if self.axes is not None and self.positions != "learned":
                raise spec_problem(
                    f"'axes' are those of learned positions, but 'positions' is '{self.positions}'"
                )
            return self

        @property
        def gives_positions(self) -> bool:
            return self.positions != "none"

        @property
        def has_cls(self) -> bool:
            return self.cls_token

        def out_length(self, input: Input) -> int:
            return input.seq_len + self.cls_token

        def token_width(self, d_model: int) -> int:
            """E."""
            return self.d_embed or d_model

        def table_width(self, d_model: int) -> int | None:
            return self.token_width(d_model) if self.n_tables == 1 else None

        def input_misfit(self, input: Input) -> str | None:
            if not isinstance(input, TokenInput):
                return f"stem 'embedding' takes input of kind 'tokens', not '{input.kind}'"
            if self.axes is not None and math.prod(self.axes) < self.out_length(input):
                sizes = " x ".join(map(str, self.axes))
                return (
                    f"'axes' {sizes} have fewer places than the stream's {self.out_length(input)} positions"
                )
            return None

        def capabilities(self) -> Capabilities:
            return Capabilities(
                causal="always", mixes_tokens=False, decode="none" if self.cls_token else "constant"
            )

        def cost(self, ctx: CostContext) -> Cost:
            assert isinstance(ctx.input, TokenInput), "the cost of an embedding needs the input"
            D, E = ctx.d_model, self.token_width(ctx.d_model)
            n_rows = sum(self.axes) if self.axes else ctx.max_len or self.out_length(ctx.input)
            tables = (self.n_tables * ctx.input.vocab_size + self.n_token_types) * E + (
                n_rows * D if self.positions == "learned" else 0
            )
            dense = E * D if self.d_embed else 0
            params = tables + (dense + D if self.d_embed else 0) + (D if self.cls_token else 0)
            n_ids = ctx.tokens - (ctx.batch_size if self.cls_token else 0)
            n_vectors = len(self.axes or (0,)) if self.positions != "none" else 0
            n_sums = (self.scale != "none") + (self.n_token_types > 0) + n_vectors
            cost = Cost(
                params=params,
                params_active=params,
                params_embedding=tables,
                flops=2 * n_ids * dense,
                flops_needed=2 * n_ids * dense,
                flops_elementwise=(n_sums + (self.d_embed is not None)) * ctx.tokens * D,
                bytes_moved=n_ids * (8 + 2 * ctx.item_bytes * E)
                + ctx.item_bytes * (dense + 3 * n_sums * ctx.tokens * D),
                activation_bytes=8 * (n_ids + n_vectors * ctx.seq_len * (self.positions == "learned"))
                + (ctx.item_bytes * n_ids * E if self.d_embed else 0),
            )
            return cost if self.norm is None else cost + self.norm.cost(ctx)

    config: Config
    examples: ClassVar = (
        Config(),
        Config(positions="learned", norm=LayerNorm.Config(eps=1e-12), n_token_types=2),
        Config(positions="sinusoidal", d_embed=12),
        Config(positions="learned", cls_token=True, norm=RMSNorm.Config(), init_std=1.0),
        Config(positions="learned", axes=(5, 4, 3), n_tables=3, scale="sqrt_d_model"),
    )

    def __init__(self, config: Config, site: Site, input: Input):
        super().__init__()
        assert isinstance(input, TokenInput)
        self.config = config
        D, E, std = site.d_model, config.token_width(site.d_model), config.init_std
        self.n_words = input.vocab_size
        self.tokens = nn.Embedding(config.n_tables * input.vocab_size, E)
        self.types = nn.Embedding(config.n_token_types, E) if config.n_token_types else None
        self.dense = nn.Linear(E, D) if config.d_embed else None
        self.cls = nn.Parameter(std * torch.randn(D)) if config.cls_token else None
        self.positions = (
            None
            if config.positions == "none"
            else AbsolutePositions(
                config.positions, config.out_length(input), D, init_std=std, axes=config.axes
            )
        )
        self.norm = build_norm(config.norm, D) if config.norm else None
        self._scale = math.sqrt(D) if config.scale == "sqrt_d_model" else 1.0
        for table in (self.tokens, self.types):
            if table is not None:
                nn.init.normal_(table.weight, std=std)
        if self.dense is not None:
            nn.init.zeros_(self.dense.bias)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self._look_up(self._rows(inputs))  # (B, L, D)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], 1, -1), x], dim=1)
        if self.positions is not None:
            x = self.positions(x)
        return x if self.norm is None else self.norm(x)

    def reference(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        table = torch.arange(inputs.shape[1], device=inputs.device) % self.config.n_tables
        one_hot = F.one_hot(inputs + table * self.n_words, self.tokens.num_embeddings).to(
            self.tokens.weight.dtype
        )
        x = one_hot @ self.tokens.weight
        if self.types is not None:
            x = x + self.types.weight[0]
        if self.dense is not None:
            x = x @ self.dense.weight.T + self.dense.bias
        x = self._scale * x
        if self.cls is not None:
            x = torch.stack([torch.cat([self.cls[None], row]) for row in x])
        if self.positions is not None:
            x = self.positions.reference(x)
        return x if self.norm is None else self.norm.reference(x)

    def out_mask(self, mask: Tensor) -> Tensor:
        return F.pad(mask, (1, 0), value=True) if self.config.cls_token else mask

    def table(self) -> nn.Parameter:
        weight = self.tokens.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def step(self, inputs: Tensor, position: Tensor) -> Tensor:
        assert self.cls is None, "a stem with a cls token does not decode"
        x = self._look_up(self._rows(inputs[:, None], position.view(1)))
        if self.positions is not None:
            x = self.positions(x, position.view(1))
        return (x if self.norm is None else self.norm(x))[:, 0]

    def param_hints(self) -> dict[str, ParamHint]:
        return {n: ParamHint(no_weight_decay=True) for n, _ in self.named_parameters() if n != "dense.weight"}

    def _rows(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """Ids (B, L) at ``positions`` (L,), by default 0, 1, 2, ... -> rows of all token tables (B, L)."""
        if self.config.n_tables == 1:
            return ids
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        return ids + positions % self.config.n_tables * self.n_words

    def _look_up(self, ids: Tensor) -> Tensor:
        """(B, ...) -> (B, ..., D): tokens and types, widened, scaled."""
        x = self.tokens(ids)
        if self.types is not None:
            x = x + self.types.weight[0]
        if self.dense is not None:
            x = self.dense(x)
        return x if self.config.scale == "none" else x * self._scale
