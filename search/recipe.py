"""How a model is trained: optimizer, learning-rate grid, schedule, batch, precision."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from archspec.closed import Closed

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
    warmup: Annotated[float, Field(ge=0, lt=1, description="share of the steps with a linear warm-up")] = 0.1
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
    curve_points: Annotated[int, Field(ge=1, le=10_000, description="validations in one training")] = 10
    validation_examples: Annotated[int, Field(ge=1, description="examples of one point of the curve")] = 256
    final_examples: Annotated[int, Field(ge=1, description="examples of the last evaluation")] = 512
    solved_at: Annotated[
        float | None,
        Field(gt=0, le=1, description="stop when the validation score reaches this; null: never"),
    ] = 0.999

    @property
    def validate_every(self) -> int:
        """Steps between two points of the learning curve."""
        return max(1, self.steps // self.curve_points)

    def lr_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at ``step`` (from 0)."""
        rising = round(self.warmup * self.steps)
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, self.steps - rising)
        match self.schedule:
            case "constant":
                left = 1.0
            case "cosine":
                left = (1 + math.cos(math.pi * done)) / 2
            case "stable_decay":
                left = min(1.0, (1 - done) / 0.2)
        return self.final_lr + (1 - self.final_lr) * left
