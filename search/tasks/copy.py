"""Copy a string of varying length: ``$ string | string .``, asked only at the answer.

A causal model reads the answer's letters as it goes and predicts the next one. A bidirectional model finds
blanks where the answer stands and fills them all at once. The length varies because copying at a fixed
distance is a mere convolution. Score: accuracy above chance, where chance is the better of guessing a letter
and always saying ``.``.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from archspec.components import spec_problem
from search.tasks.contract import IGNORE, Batch, Needs, Split, Task, TaskConfig

START, BAR, END, BLANK = range(4)
_FIRST_LETTER = 4


class Copy(Task):
    class Config(TaskConfig):
        kind: Literal["copy"] = "copy"
        n_min: Annotated[int, Field(ge=1, le=100_000, description="shortest string")] = 4
        n_max: Annotated[int, Field(ge=1, le=100_000, description="longest string")] = 12
        alphabet: Annotated[int, Field(ge=2, le=100_000, description="number of letters")] = 26

        @model_validator(mode="after")
        def _range(self) -> Copy.Config:
            if self.n_min > self.n_max:
                raise spec_problem(f"n_min {self.n_min} is greater than n_max {self.n_max}")
            return self

        def shortened(self, share: Fraction) -> Self:
            n_min, n_max = (max(1, round(share * n)) for n in (self.n_min, self.n_max))
            return self.model_copy(update={"n_min": n_min, "n_max": n_max})

        def needs(self, *, causal: bool) -> Needs:
            n_ids = self.alphabet + _FIRST_LETTER
            return Needs(n_ids, n_ids, 2 * self.n_max + (2 if causal else 3))

    config: Config

    @property
    def chance(self) -> float:
        mean_answer = (self.config.n_min + self.config.n_max) / 2 + 1
        return max(1 / self.config.alphabet, 1 / mean_answer)

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        c, g = self.config, self.generator(split, index)
        n = torch.randint(c.n_min, c.n_max + 1, (batch_size, 1), generator=g)
        letters = torch.randint(c.alphabet, (batch_size, c.n_max), generator=g) + _FIRST_LETTER
        t = torch.arange(2 * c.n_max + 3).expand(batch_size, -1)
        place = torch.where(t <= n, t - 1, t - n - 2).clamp(0, c.n_max - 1)  # of the letter that stands at t
        text = letters.gather(1, place)
        text[t == 0] = START
        text[t == n + 1] = BAR
        text[t >= 2 * n + 2] = END  # also fills what follows the answer
        answer = (t > n + 1) & (t <= 2 * n + 2)
        targets = text.where(answer, IGNORE)
        if self.causal:
            return Batch(text[:, :-1].contiguous(), targets[:, 1:].contiguous())
        return Batch(text.masked_fill(answer, BLANK), targets)
