"""Train one model on one task with one learning rate: a plain loop that can stop anywhere and go on.

Nothing that happens to the model is raised: divergence, lack of memory and lack of time are statuses with a
reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from compiler import CompiledModel
from search.checkpoint import load_checkpoint, save_checkpoint
from search.recipe import Recipe
from search.scoring import answer_logits, autocast, evaluate, summed_loss
from search.tasks.contract import IGNORE, Task

Status = Literal["running", "ok", "diverged", "timeout", "out_of_memory", "interrupted"]
_SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class Point:
    """One point of a learning curve. ``seconds`` are wall-clock, evaluations included."""

    step: int
    tokens: int
    seconds: float
    train_loss: float  # mean since the point before, nats per target
    loss: float  # on validation
    accuracy: float
    score: float


@dataclass
class Progress:
    """Where a training stands; what a checkpoint keeps beside the tensors."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    first_loss: float | None = None
    summed_loss: float = 0.0  # since the last point
    summed_steps: int = 0
    curve: list[Point] = field(default_factory=list)
    solved: bool = False
    status: Status = "running"
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(saved: dict[str, Any]) -> Progress:
        return Progress(**saved | {"curve": [Point(**point) for point in saved["curve"]]})


@dataclass(frozen=True)
class Watch:
    """What a training reports to while it runs, and who may stop it."""

    on_step: Callable[[Progress, float], None] | None = None  # progress and the step's loss
    interrupted: Callable[[], bool] | None = None  # asked after every step
    time_limit: float | None = None  # seconds of all sessions together
    until_step: int | None = None  # stop here, before the schedule's end; no point of the curve is added


def fit(
    model: CompiledModel,
    task: Task,
    recipe: Recipe,
    *,
    learning_rate: float,
    seed: int,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
) -> Progress:
    """Train ``model`` in place, going on from ``checkpoint`` if that exists."""
    devices = [p.device for p in model.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return _Run(model, task, recipe, learning_rate, checkpoint, watch or Watch()).run()


class _Run:
    """The loop and what it holds on to."""

    def __init__(
        self,
        model: CompiledModel,
        task: Task,
        recipe: Recipe,
        learning_rate: float,
        checkpoint: Path | None,
        watch: Watch,
    ):
        self.model, self.task, self.recipe, self.watch = model, task, recipe, watch
        self.checkpoint = checkpoint
        self.parameters = list(model.parameters())
        self.device = self.parameters[0].device
        groups = model.param_groups(learning_rate, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=recipe.betas, fused=True)
        self.peak_rates = [group["lr"] for group in self.optimizer.param_groups]
        saved = load_checkpoint(checkpoint, model.module, self.optimizer) if checkpoint else None
        self.progress = Progress.from_json(saved) if saved else Progress()
        self.losses: list[Tensor] = []  # of steps whose values have not been looked at yet

    def run(self) -> Progress:
        p = self.progress
        last = min(self.recipe.steps, self.watch.until_step or self.recipe.steps)
        if p.status == "diverged" or p.solved or p.step >= last:
            return p
        p.status, p.reason = "running", ""
        self.model.train()
        wall, cpu = time.perf_counter() - p.seconds, time.process_time() - p.cpu_seconds
        saved_at = time.perf_counter()
        try:
            while p.status == "running":
                self._step()
                p.seconds, p.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
                self._look(last)
                p.seconds, p.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
                if self.checkpoint and (
                    p.status != "running" or time.perf_counter() - saved_at > _SAVE_EVERY_S
                ):
                    save_checkpoint(self.checkpoint, self.model.module, self.optimizer, p.as_json())
                    saved_at = time.perf_counter()
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            p.status, p.reason = "out_of_memory", f"at step {p.step + 1}: {str(error).splitlines()[0]}"
        return p

    def _step(self) -> None:
        """One optimizer step on the next batch."""
        p, recipe = self.progress, self.recipe
        for group, peak in zip(self.optimizer.param_groups, self.peak_rates):
            group["lr"] = peak * recipe.lr_factor(p.step)
        batch = self.task.batch("train", p.step, recipe.batch_size).to(self.device)
        with autocast(recipe.precision, self.device):
            out = self.model.outputs(batch.inputs, batch.mask)
        logits = answer_logits(self.task, out.logits)
        loss = summed_loss(logits, batch.targets) / (batch.targets != IGNORE).sum().clamp(min=1)
        self.optimizer.zero_grad(set_to_none=True)
        (loss if out.aux_loss is None else loss + out.aux_loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.grad_clip or math.inf)
        self.optimizer.step()
        self.model.apply_statistics(out.statistics)
        self.losses.append(loss.detach())
        p.step += 1
        p.tokens += batch.inputs.numel()

    def _look(self, last: int) -> None:
        """After a step: is the loss sane, is a point due, is there a reason to stop?"""
        p, watch = self.progress, self.watch
        point_due = p.step % self.recipe.validate_every == 0 or p.step == self.recipe.steps
        if self.device.type != "cpu" and not point_due and p.step % 10 and p.step < last:
            return  # looking would wait for the device
        values = [float(loss) for loss in self.losses]
        self.losses.clear()
        p.first_loss = values[0] if p.first_loss is None else p.first_loss
        p.summed_loss, p.summed_steps = sum(values, p.summed_loss), p.summed_steps + len(values)
        if watch.on_step:
            watch.on_step(p, values[-1])
        bad = [value for value in values if not value <= 10 * max(p.first_loss, 1.0)]  # NaN is bad, too
        if bad:
            p.status = "diverged"
            p.reason = f"the training loss is {bad[0]:.3g} by step {p.step}; it began at {p.first_loss:.3g}"
            return
        is_late = watch.time_limit is not None and p.seconds > watch.time_limit
        if point_due or is_late:
            self._add_point()
        if p.status != "running":
            return
        if p.solved or p.step >= last:
            p.status = "ok"
        elif is_late:
            p.status, p.reason = "timeout", f"{p.seconds:.0f} s were not enough: step {p.step} of {last}"
        elif watch.interrupted and watch.interrupted():
            p.status, p.reason = "interrupted", f"at step {p.step} of {last}"

    def _add_point(self) -> None:
        """Validate, and put the result on the learning curve."""
        p, recipe = self.progress, self.recipe
        metrics = evaluate(
            self.model,
            self.task,
            n_examples=recipe.validation_examples,
            batch_size=recipe.batch_size,
            precision=recipe.precision,
        )
        if not math.isfinite(metrics.loss):
            p.status, p.reason = "diverged", f"the validation loss is {metrics.loss} at step {p.step}"
            return
        score = self.task.score(metrics)
        train_loss = p.summed_loss / max(1, p.summed_steps)
        p.curve.append(Point(p.step, p.tokens, p.seconds, train_loss, metrics.loss, metrics.accuracy, score))
        p.summed_loss, p.summed_steps = 0.0, 0
        p.solved = recipe.solved_at is not None and score >= recipe.solved_at


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)
