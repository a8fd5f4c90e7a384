"""What a task is: batches made from a seed, what it needs of a model, and a score in [0, 1].

Shapes: B examples, L positions. Every task asks one question per position; where it asks none, the target is
``IGNORE``. A task never edits a spec: a spec that does not fit is refused (``TaskConfig.misfit``).
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from archspec import Closed, ComponentConfig, ModelSpec, TokenInput
from archspec.components import spec_problem
from archspec.spec import Fit
from zoo.contract import HeadConfig, StemConfig

Split = Literal["train", "validation", "test"]
IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """Token ids (B, L), targets (B, L) with ``IGNORE`` where nothing is asked, mask (B, L) of real tokens."""

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        return Batch(self.inputs.to(device), self.targets.to(device), mask)


@dataclass(frozen=True)
class Metrics:
    """Means over all targets of the examples that were evaluated."""

    loss: float  # nats per target
    accuracy: float
    n_targets: int

    @property
    def bits(self) -> float:
        """Bits per target."""
        return self.loss / math.log(2)


@dataclass(frozen=True)
class Baseline:
    """What something that is no model reaches on the same split, to be printed beside every model."""

    name: str
    values: dict[str, float]  # by metric, as ``Task.values``
    note: str


@dataclass(frozen=True)
class Needs:
    """What a task asks of a model: ids its input must know, logits per position, positions of one example.

    The first ``n_outputs`` logits are the answers; what a model has beyond them takes no part.
    """

    n_ids: int
    n_outputs: int
    length: int


class TaskConfig(Closed):
    """A task's settings. ``kind`` (a ``Literal``) equals the file name."""

    causal_only: ClassVar[bool] = False  # a model that sees the future would read the answer in its input

    kind: str
    weight: Annotated[float, Field(gt=0, description="weight of this task in a study's mean score")] = 1.0

    @abstractmethod
    def needs(self, *, causal: bool) -> Needs:
        """What a causal (or bidirectional) model must offer."""

    def relative_to(self, folder: Path) -> Self:
        """The same task with the paths in it, if any, taken from ``folder``, where the naming file stands."""
        return self

    def shortened(self, share: Fraction) -> Self:
        """The same task with examples of a share of the length, for a lower rung of a search."""
        raise spec_problem(f"task '{self.kind}' has no shorter form", "use rungs of steps, width or seeds")

    def misfit(self, spec: ModelSpec) -> str | None:
        """Why ``spec`` cannot be trained on this task (fields and values of both), or None if it can."""
        needs, task = self.needs(causal=spec.causal), f"task '{self.kind}'"
        if spec.encoder is not None:
            return f"{task} gives one sequence, but this model has an encoder, which wants a source beside it"
        if spec.condition is not None:
            return f"{task} gives no condition, but the spec has a 'condition'"
        if not isinstance(spec.input, TokenInput):
            return f"{task} feeds token ids, but input.kind is '{spec.input.kind}'"
        if self.causal_only and not spec.causal:
            return f"{task} needs a model with causal: true: any other would read the answer in its input"
        if spec.input.vocab_size < needs.n_ids:
            return f"{task} uses {needs.n_ids} token ids, but input.vocab_size is {spec.input.vocab_size}"
        if spec.input.seq_len < needs.length:
            return (
                f"{task} has examples of {needs.length} positions, but input.seq_len is {spec.input.seq_len}"
            )
        return self._head_misfit(spec, needs) or self._length_misfit(spec, needs)

    def _head_misfit(self, spec: ModelSpec, needs: Needs) -> str | None:
        head, stem = spec.head, spec.stem
        assert isinstance(head, HeadConfig)
        assert isinstance(stem, StemConfig)
        if not head.per_position:
            return (
                f"task '{self.kind}' asks at every position, but head '{head.kind}' answers once per sequence"
            )
        if (width := head.output_width(spec.input)) < needs.n_outputs:
            return f"task '{self.kind}' needs {needs.n_outputs} logits, but head '{head.kind}' gives {width}"
        if (length := stem.out_length(spec.input)) != spec.input.seq_len:
            return (
                f"task '{self.kind}' asks at each of the input's positions, but stem '{stem.kind}' "
                f"makes {length} positions of {spec.input.seq_len}"
            )
        return None

    def _length_misfit(self, spec: ModelSpec, needs: Needs) -> str | None:
        for config in _components(spec):
            multiple = config.capabilities().length_multiple_of
            if needs.length % multiple:
                return (
                    f"task '{self.kind}' has examples of {needs.length} positions, but '{config.kind}' "
                    f"takes only multiples of {multiple}"
                )
        return None


class Task(ABC):
    """A stream of examples for one kind of model.

    ``seed`` moves the training examples only: validation and test are the same examples for every model and
    seed. ``causal`` says what kind of model is asked: some tasks put the question differently to a
    bidirectional one. A subclass has a nested ``Config`` and reads its settings from ``self.config``.
    """

    Config: ClassVar[type[TaskConfig]]
    metric: ClassVar[str] = "accuracy"  # the figure of ``values`` that people quote
    lower_is_better: ClassVar[bool] = False

    def __init__(self, config: Any, *, causal: bool, seed: int = 0):
        self.config = config
        self.causal = causal
        self.seed = seed

    @property
    def chance(self) -> float:
        """The accuracy of the best answer that ignores the input."""
        return 0.0

    @abstractmethod
    def batch(self, split: Split, index: int, batch_size: int) -> Batch:
        """Batch ``index`` of a split: the same one whenever it is asked for. The ``test`` split is sealed."""

    def values(self, metrics: Metrics) -> dict[str, float]:
        """The figures to print, the task's ``metric`` among them."""
        return {"accuracy": metrics.accuracy, "loss": metrics.loss}

    def score(self, metrics: Metrics) -> float:
        """[0, 1]: accuracy above chance, (accuracy - chance) / (1 - chance), and 0 below chance."""
        return max(0.0, (metrics.accuracy - self.chance) / (1 - self.chance))

    def n_examples(self, split: Split) -> int | None:
        """How many different examples a split has; None where they never end."""
        return None

    def baselines(self, split: Split, n_examples: int) -> tuple[Baseline, ...]:
        """What to print beside a model's figures on ``split``."""
        note = "the best answer that ignores the input"
        return (Baseline("chance", {"accuracy": self.chance}, note),)

    def record(self) -> dict[str, Any]:
        """What identifies the examples: JSON-able, part of every result and cache key."""
        return {"config": self.config.model_dump(mode="json"), "causal": self.causal}

    def generator(self, split: Split, index: int) -> torch.Generator:
        """Randomness of its own for every batch of every split."""
        seed = self.seed if split == "train" else 0
        key = json.dumps([self.config.kind, split, seed, index]).encode()
        number = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
        return torch.Generator().manual_seed(number)


def _components(part: BaseModel) -> list[ComponentConfig]:
    """The configurations that see the input's stream; a FIT's layers see its groups and latents."""
    found: list[ComponentConfig] = []
    for name in type(part).model_fields:
        value = getattr(part, name)
        values = (
            value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
        )
        for item in values:
            if isinstance(item, ComponentConfig):
                found.append(item)
            if isinstance(item, BaseModel) and not isinstance(item, Fit):
                found += _components(item)
    return found
