"""Cumulative parity: at every position, whether the number of ones so far is odd.

Needs a state that is flipped by the input; a recurrence with positive decays cannot, nor can shallow
attention at length. Score: accuracy above chance (0.5).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal, Self

import torch
from pydantic import Field

from search.tasks.contract import Batch, Needs, Split, Task, TaskConfig


class Parity(Task):
    class Config(TaskConfig):
        kind: Literal["parity"] = "parity"
        length: Annotated[int, Field(ge=1, le=1_000_000, description="bits of one example")] = 32

        def shortened(self, share: Fraction) -> Self:
            return self.model_copy(update={"length": max(1, round(share * self.length))})

        def needs(self, *, causal: bool) -> Needs:
            return Needs(2, 2, self.length)

    config: Config

    @property
    def chance(self) -> float:
        return 0.5

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        bits = torch.randint(2, (batch_size, self.config.length), generator=self.generator(split, index))
        return Batch(bits, bits.cumsum(1) % 2)
