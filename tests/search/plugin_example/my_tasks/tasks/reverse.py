"""Say a string backwards: ``string | gnirts``, asked only after the bar. Score: accuracy above chance."""

from typing import Literal

import torch

from search.tasks.contract import IGNORE, Batch, Needs, Split, Task, TaskConfig


class Reverse(Task):
    class Config(TaskConfig):
        kind: Literal["reverse"] = "reverse"
        n: int = 8
        alphabet: int = 16
        causal_only = True  # the answer's letters stand in the input, one place after they are asked

        def needs(self, *, causal: bool) -> Needs:
            return Needs(n_ids=self.alphabet + 1, n_outputs=self.alphabet + 1, length=2 * self.n)

    config: Config

    @property
    def chance(self) -> float:
        return 1 / self.config.alphabet

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        generator = self.generator(split, index)
        letters = torch.randint(self.config.alphabet, (batch_size, self.config.n), generator=generator)
        bar = torch.full((batch_size, 1), self.config.alphabet)
        text = torch.cat([letters, bar, letters.flip(1)], dim=1)  # (B, 2n + 1)
        targets = text[:, 1:].clone()
        targets[:, : self.config.n] = IGNORE
        return Batch(text[:, :-1], targets)
