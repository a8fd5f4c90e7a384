"""Mixers with one planted fault each, and the sound one they are made of: do the contract's checks see them?

The mixer: a linear map of the mean of all tokens, or of those up to each token. Paper: none (arXiv: none).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from zoo.contract import Mixer, MixerOutput, ParamHint, State


class Mean(Mixer):
    """The sound one."""

    class Config(MixerConfig):
        kind: Literal["mean"] = "mean"
        scale: float = Field(1.0, description="factor on the mean")

        def cost(self, ctx: CostContext) -> Cost:
            D = ctx.d_model
            flops = 2 * ctx.tokens * D * D
            return Cost(
                params=D * D,
                params_active=D * D,
                flops=flops,
                flops_needed=flops,
                state_bytes=ctx.item_bytes * (D + 1) if ctx.causal else 0,
            )

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="switch", decode="constant")

    config: Config
    examples: ClassVar = (Config(), Config(scale=0.5))

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.out = nn.Linear(site.d_model, site.d_model, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        total, count = (real * x).cumsum(1), real.cumsum(1)
        if not self.site.causal:
            total, count = total[:, -1:].expand_as(x), count[:, -1:]
        return self.out(self.config.scale * total / count.clamp(min=1))

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        rows = []
        for b, row in enumerate(x):
            for t in range(len(row)):
                seen = row[: t + 1] if self.site.causal else row
                real = seen if mask is None else seen[mask[b, : len(seen)]]
                rows.append(self.config.scale * real.mean(0))
        return self.out(torch.stack(rows).view_as(x))

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        return {"sum": torch.zeros(batch_size, self.site.d_model + 1, dtype=dtype, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        total = state["sum"] + torch.cat([x, torch.ones_like(x[:, :1])], dim=-1)
        return self.out(self.config.scale * total[:, :-1] / total[:, -1:]), {"sum": total}


class Leaky(Mean):
    """Adds the mean of the whole sequence."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) + 1e-3 * x.mean(1, keepdim=True)


class GatedLeak(Mean):
    """The same behind a gate that is closed at the start."""

    def __init__(self, config: Mean.Config, site: Site):
        super().__init__(config, site)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) + self.gate * x.mean(1, keepdim=True)


class Selecting(Mean):
    """Averages the earlier tokens that are among the greater half of all: no gradient tells."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        greater = x.sum(-1) >= x.sum(-1).median(1, keepdim=True).values
        return super().forward(x, greater)


class TrainingLeak(Mean):
    """Leaks in train mode alone."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) + (x.mean(1, keepdim=True) if self.training else 0)


class BatchCoupled(Mean):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True), mask)


class SilentlyCausal(Mean):
    """Forgets the other direction."""

    def __init__(self, config: Mean.Config, site: Site):
        super().__init__(config, replace(site, causal=True))


class Deaf(Mean):
    """Mixes nothing."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.out(x)


class WrongForward(Mean):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) * (1 + 1e-6)


class WrongGradient(Mean):
    """Right values, no gradient through the count's factor: detaches its input half."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward((x + x.detach()) / 2, mask)


class MaskIgnored(Mean):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


class EmptyRowNaN(Mean):
    """Divides by the number of real tokens without a guard."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = super().forward(x, mask)
        return y if mask is None else y / mask.any(1).to(x.dtype)[:, None, None]


class AnyMask(Mean):
    def __call__(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Past what mixers share before their forward pass."""
        return self.forward(x, None if mask is None or mask.shape != x.shape[:2] else mask.bool())


class WrongStep(Mean):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = super().step(x, state)
        return y, {"sum": after["sum"] * (1 - 1e-6)}


class InPlace(Mean):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x.mul_(1.0 + 1e-3), mask)


class Counting(Mean):
    """Updates a buffer inside forward."""

    calls: Tensor

    def __init__(self, config: Mean.Config, site: Site):
        super().__init__(config, site)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().forward(x, mask)


class Noisy(Mean):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) + 1e-3 * torch.randn_like(x)


class Fickle(Mean):
    """Computes something else each time, so that what is recomputed is not what was."""

    def __init__(self, config: Mean.Config, site: Site):
        super().__init__(config, site)
        self.n_calls = 0

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.n_calls += 1
        return super().forward(x, mask) * (1 + 1e-3 * self.n_calls)


class HalfPrecision(Mean):
    """Sums in the type it is given: under autocast in eight bits."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = super().forward(x, mask)
        return (
            y + (1e3 * y).to(torch.bfloat16).to(y.dtype) - 1e3 * y if torch.is_autocast_enabled("cpu") else y
        )


class Branching(Mean):
    """Python control flow on a tensor's value."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) if x.sum() > 0 else super().forward(-x, mask)


class Undeclared(Mean):
    """Returns side products that its capabilities do not mention."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> MixerOutput:
        y = super().forward(x, mask)
        return MixerOutput(y, torch.zeros((), dtype=x.dtype), torch.zeros(1))


class WrongHints(Mean):
    def param_hints(self) -> dict[str, ParamHint]:
        return {"out.scale": ParamHint(no_weight_decay=True)}


class Uninitialised(Mean):
    """Draws from a generator that no seed reaches."""

    def __init__(self, config: Mean.Config, site: Site):
        super().__init__(config, site)
        free = torch.Generator()
        free.seed()
        nn.init.normal_(self.out.weight, generator=free)


class Forgetful(Mean):
    """Keeps something out of the state dict."""

    def __init__(self, config: Mean.Config, site: Site):
        super().__init__(config, site)
        self.secret = torch.rand(())

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) * self.secret


class WrongShape(Mean):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask)[:, :7]


class LengthBound(Mean):
    """A parameter as long as the site, without saying so."""

    def __init__(self, config: Mean.Config, site: Site):
        super().__init__(config, site)
        self.positions = nn.Parameter(torch.zeros(site.seq_len))


class OneHash(Mean):
    """Takes all scales for one."""

    class Config(Mean.Config):
        def canonical_at(self, d_model: int) -> OneHash.Config:
            return OneHash.Config()

    examples: ClassVar = (Config(), Config(scale=0.5))


class Apart(Mean):
    """Says it does not mix tokens."""

    class Config(Mean.Config):
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities(), mixes_tokens=False)

    examples: ClassVar = (Config(), Config(scale=0.5))


class OneExample(Mean):
    examples: ClassVar = (Mean.Config(),)


class Undescribed(Mean):
    class Config(Mean.Config):
        size: int = 3

    examples: ClassVar = (Config(), Config(size=2))


class PaperUnnamed(Mean):
    class Config(Mean.Config):
        paper: ClassVar[str] = "Nobody 2099, arXiv:2099.00001"

    examples: ClassVar = (Config(), Config(scale=0.5))
