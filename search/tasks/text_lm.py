"""Language modelling on real text, one byte at a time.

A causal model predicts the next byte. A bidirectional model gets windows in which 15 % of the bytes are
replaced by a mask id (256) and names the missing ones. Training windows are drawn at random; validation and
test windows do not overlap and, in the order they are asked for, spread over the whole part. Score: 1 - bits
per byte / 8, and 0 below.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from archspec import SpecError
from archspec.components import spec_problem
from search import baselines_text
from search.corpora import Corpus, load_corpus
from search.tasks.contract import IGNORE, Baseline, Batch, Metrics, Needs, Split, Task, TaskConfig

MASK_ID = 256
_MASKED_SHARE = 0.15


class TextLm(Task):
    class Config(TaskConfig):
        kind: Literal["text_lm"] = "text_lm"
        source: Annotated[
            Literal["python_docs", "python_stdlib", "path"],
            Field(description="text that comes with Python, or a file or folder of your own"),
        ] = "python_docs"
        path: Annotated[str | None, Field(description="UTF-8 file or folder, for source: path")] = None
        seq_len: Annotated[int, Field(ge=2, le=10_000_000, description="bytes of one example")] = 128

        @model_validator(mode="after")
        def _path_belongs_to_source(self) -> TextLm.Config:
            if (self.source == "path") != (self.path is not None):
                raise spec_problem(
                    f"path is {self.path!r}, but source is '{self.source}': give both or neither"
                )
            return self

        def relative_to(self, folder: Path) -> Self:
            if self.path is None:
                return self
            return self.model_copy(update={"path": str(folder / Path(self.path).expanduser())})

        def shortened(self, share: Fraction) -> Self:
            return self.model_copy(update={"seq_len": max(2, round(share * self.seq_len))})

        def needs(self, *, causal: bool) -> Needs:
            return Needs(256 if causal else MASK_ID + 1, 256, self.seq_len)

    config: Config
    metric = "bits_per_byte"
    lower_is_better = True

    def __init__(self, config: Config, *, causal: bool, seed: int = 0):
        super().__init__(config, causal=causal, seed=seed)
        self.corpus: Corpus = load_corpus(config.source, path=config.path)
        parts = {"train": self.corpus.train, "validation": self.corpus.validation, "test": self.corpus.test}
        self._texts = {
            split: torch.frombuffer(bytearray(part), dtype=torch.uint8) for split, part in parts.items()
        }
        self._window = config.seq_len + 1 if causal else config.seq_len
        shortest = min(parts.values(), key=len)
        if len(shortest) < self._window:
            raise SpecError(
                f"text '{self.corpus.name}' is too short: a part of it has {len(shortest)} bytes, seq_len is "
                f"{config.seq_len}",
                path="seq_len",
            )

    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        text, g = self._texts[split], self.generator(split, index)
        if split == "train":
            starts = torch.randint(len(text) - self._window + 1, (batch_size,), generator=g)
        else:
            starts = self._spread(split, torch.arange(batch_size) + index * batch_size)
        places = starts[:, None] + torch.arange(self._window)  # (B, L)
        window = text[places].long()
        if self.causal:
            return Batch(window[:, :-1].contiguous(), window[:, 1:].contiguous())
        if split == "train":
            hidden = torch.rand(window.shape, generator=g) < _MASKED_SHARE
        else:
            hidden = self._hidden[split][places]
        return Batch(window.masked_fill(hidden, MASK_ID), window.where(hidden, IGNORE))

    def values(self, metrics: Metrics) -> dict[str, float]:
        return {"bits_per_byte": metrics.bits, "accuracy": metrics.accuracy}

    def score(self, metrics: Metrics) -> float:
        return max(0.0, 1 - metrics.bits / 8)

    def n_examples(self, split: Split) -> int | None:
        return None if split == "train" else len(self._texts[split]) // self._window

    def baselines(self, split: Split, n_examples: int) -> tuple[Baseline, ...]:
        batch = self.batch(split, 0, min(n_examples, self.n_examples(split) or n_examples))
        return baselines_text.baselines(
            self.corpus,
            baselines_text.Questions(batch.inputs.numpy(), batch.targets.numpy(), causal=self.causal),
            "validation" if split == "validation" else "test",
        )

    def record(self) -> dict[str, Any]:
        config = self.config.model_dump(mode="json", exclude={"path"})  # its content says which text it was
        return {**super().record(), "config": config, "data": self.corpus.record()}

    @functools.cached_property
    def _hidden(self) -> dict[str, Tensor]:
        """Which bytes of validation and test are masked: the same for every bidirectional model."""
        return {
            split: torch.rand(len(self._texts[split]), generator=self.generator(split, 0)) < _MASKED_SHARE
            for split in ("validation", "test")
        }

    def _spread(self, split: Split, example: Tensor) -> Tensor:
        """Where windows number ``example`` start, in an order that visits each once and skips far ahead."""
        n = self.n_examples(split) or 1
        stride = max(1, round(n * (math.sqrt(5) - 1) / 2))
        while math.gcd(stride, n) > 1:
            stride += 1
        return (example * stride % n) * self._window
