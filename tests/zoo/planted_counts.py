"""Mixers whose closed form is wrong by a little: a parameter, a multiply-add, a byte of state."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from planted import Mean

from archspec import Cost, CostContext


class _Miscounted(Mean):
    class Config(Mean.Config):
        def cost(self, ctx: CostContext) -> Cost:
            return self.miscount(super().cost(ctx), ctx)

        def miscount(self, cost: Cost, ctx: CostContext) -> Cost:
            raise NotImplementedError

    examples: ClassVar = (Config(), Config(scale=0.5))


class WrongParameters(_Miscounted):
    class Config(_Miscounted.Config):
        def miscount(self, cost: Cost, ctx: CostContext) -> Cost:
            return replace(cost, params=cost.params + 1)

    examples: ClassVar = (Config(), Config(scale=0.5))


class WrongFlops(_Miscounted):
    class Config(_Miscounted.Config):
        def miscount(self, cost: Cost, ctx: CostContext) -> Cost:
            return replace(cost, flops=cost.flops + 2 * ctx.batch_size * (ctx.seq_len > 20))

    examples: ClassVar = (Config(), Config(scale=0.5))


class WrongDecodeFlops(_Miscounted):
    class Config(_Miscounted.Config):
        def miscount(self, cost: Cost, ctx: CostContext) -> Cost:
            return replace(cost, flops=cost.flops * (2 if ctx.phase == "decode" else 1))

    examples: ClassVar = (Config(), Config(scale=0.5))


class WrongState(_Miscounted):
    class Config(_Miscounted.Config):
        def miscount(self, cost: Cost, ctx: CostContext) -> Cost:
            return replace(cost, state_bytes=cost.state_bytes + 4)

    examples: ClassVar = (Config(), Config(scale=0.5))


class Overneeding(_Miscounted):
    class Config(_Miscounted.Config):
        def miscount(self, cost: Cost, ctx: CostContext) -> Cost:
            return replace(cost, flops_needed=cost.flops + 1)

    examples: ClassVar = (Config(), Config(scale=0.5))
