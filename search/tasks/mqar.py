"""Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927): learn pairs, then answer keys.

The first 2 K positions hold K distinct keys, each followed by its value. Every key is shown once more, at a
place drawn without replacement from a power law that favours early ones; there the model must name the value.
Ids: 0 is filler, keys are 1..V/2-1, values V/2..V-1. Score: accuracy above chance (any value, the input
unseen).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from archspec.components import spec_problem
from search.tasks.contract import IGNORE, Batch, Needs, Split, Task, TaskConfig


class Mqar(Task):
    class Config(TaskConfig):
        kind: Literal["mqar"] = "mqar"
        n_pairs: Annotated[int, Field(ge=1, le=100_000, description="keys to remember (K)")] = 16
        vocab_size: Annotated[int, Field(ge=4, le=1_000_000, description="ids in use (V)")] = 128
        length: Annotated[int, Field(ge=3, le=1_000_000, description="positions of one example (L)")] = 48
        power: Annotated[float, Field(gt=0, le=1, description="a of the law p(i) ~ i^(a-1)")] = 0.01
        filler: Annotated[Literal["zero", "random"], Field(description="what stands between the queries")] = (
            "zero"
        )

        @model_validator(mode="after")
        def _fits(self) -> Mqar.Config:
            if self.n_pairs > (n_keys := self.vocab_size // 2 - 1):
                raise spec_problem(
                    f"n_pairs {self.n_pairs} needs as many different keys, but vocab_size {self.vocab_size} "
                    f"leaves {n_keys}"
                )
            if self.length < 3 * self.n_pairs:
                raise spec_problem(
                    f"length {self.length} is too short for n_pairs {self.n_pairs}: pairs and queries need "
                    f"{3 * self.n_pairs} positions"
                )
            return self

        def shortened(self, share: Fraction) -> Self:
            n_pairs = max(1, round(share * self.n_pairs))
            length = max(3 * n_pairs, round(share * self.length))
            return self.model_copy(update={"n_pairs": n_pairs, "length": length})

        def needs(self, *, causal: bool) -> Needs:
            return Needs(self.vocab_size, self.vocab_size, self.length)

    config: Config

    @property
    def chance(self) -> float:
        return 1 / (self.config.vocab_size - self.config.vocab_size // 2)

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        c, g, B = self.config, self.generator(split, index), batch_size
        K, half, n_places = c.n_pairs, c.vocab_size // 2, c.length - 2 * c.n_pairs
        keys = torch.rand(B, half - 1, generator=g).topk(K).indices + 1  # (B, K), distinct
        values = torch.randint(half, c.vocab_size, (B, K), generator=g)
        inputs = torch.zeros(B, c.length, dtype=torch.long)
        if c.filler == "random":
            inputs.random_(half, c.vocab_size, generator=g)
        inputs[:, 0 : 2 * K : 2], inputs[:, 1 : 2 * K : 2] = keys, values
        # The K largest of log p + Gumbel noise are K draws without replacement.
        log_p = (c.power - 1) * torch.arange(1, n_places + 1).log()
        gumbel = -torch.empty(B, n_places).exponential_(generator=g).log()
        places = (log_p + gumbel).topk(K).indices + 2 * K  # (B, K)
        targets = torch.full_like(inputs, IGNORE).scatter(1, places, values)
        return Batch(inputs.scatter(1, places, keys), targets)
