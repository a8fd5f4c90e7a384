"""How a model is trained: optimizer, learning-rate grid, schedule, batch, precision."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from archspec.closed import Closed
from archspec.components import spec_problem

Rate = Annotated[float, Field(gt=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Closed):
    """AdamW on endless batches. The schedule spans ``steps``; a run that stops earlier is a prefix of it."""

    learning_rates: Annotated[
        tuple[Rate, ...],
        Field(min_length=1, max_length=20, description="each is tried; the best by validation counts"),
    ] = (2e-3, 5e-3)
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 32
    steps: Annotated[int, Field(ge=1, le=100_000_000, description="optimizer steps of one training")] = 400
    warmup_steps: Annotated[int, Field(ge=0, description="steps of linear warm-up")] = 40
    schedule: Annotated[
        Literal["cosine", "constant", "stable_decay"],
        Field(description="after warm-up; stable_decay: constant, then linear over the last 20 %"),
    ] = "cosine"
    final_lr: Annotated[
        float, Field(ge=0, le=1, description="share of the learning rate that is left at the end")
    ] = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    grad_clip: Annotated[float | None, Field(gt=0, description="greatest norm of the gradient")] = 1.0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="bfloat16: autocast over fp32 weights; auto: that on CUDA, float32 elsewhere"),
    ] = "auto"
    validate_every: Annotated[int, Field(ge=1, description="steps between points of the learning curve")] = 50
    validation_examples: Annotated[int, Field(ge=1, description="examples of one point of the curve")] = 256
    final_examples: Annotated[int, Field(ge=1, description="examples of the last evaluation")] = 512
    solved_at: Annotated[
        float | None,
        Field(gt=0, le=1, description="stop when the validation score reaches this; null: never"),
    ] = 0.999

    @model_validator(mode="after")
    def _warmup_inside(self) -> Recipe:
        if self.warmup_steps >= self.steps and self.warmup_steps > 0:
            raise spec_problem(f"warmup_steps {self.warmup_steps} must be less than steps {self.steps}")
        return self

    def lr_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at ``step`` (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        match self.schedule:
            case "constant":
                left = 1.0
            case "cosine":
                left = (1 + math.cos(math.pi * done)) / 2
            case "stable_decay":
                left = min(1.0, (1 - done) / 0.2)
        return self.final_lr + (1 - self.final_lr) * left
