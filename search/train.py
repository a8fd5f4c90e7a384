"""ModelSpec and task -> TrainResult: the best of a small learning-rate grid, each trained alike."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from archspec import ModelSpec, SpecError
from archspec.identity import spec_hash
from compiler import CompiledModel, compile_spec
from search.checkpoint import checkpoint_of, write_text
from search.fit import Point, Progress, Status, Watch, fit
from search.learning_curve import area_under_curve, write_csv
from search.recipe import Recipe
from search.score_by import ScoreBy, value_of
from search.scoring import evaluate
from search.tasks import Tasks, load_tasks
from search.tasks.contract import Metrics, Task, TaskConfig
from zoo import Zoo


@dataclass(frozen=True)
class Attempt:
    """One learning rate's training. A diverged one has score 0 and no metrics."""

    learning_rate: float
    status: Status
    reason: str
    solved: bool  # stopped early, since the validation score reached the recipe's ``solved_at``
    score: float  # on validation, after the last step; or what ``score_by`` makes of the curve
    area: float  # under the curve of the score over the steps, as a share of the whole
    metrics: dict[str, float]
    steps: int
    tokens: int
    seconds: float
    cpu_seconds: float
    curve: tuple[Point, ...]


@dataclass(frozen=True)
class TrainResult:
    """The best attempt, and all of them. ``seconds`` and ``cpu_seconds`` are of all attempts together."""

    best: Attempt
    attempts: tuple[Attempt, ...]
    untried: tuple[float, ...]  # learning rates for which the time limit left nothing
    task: dict[str, Any]  # the task's record: settings, sha256 of its data
    spec_hash: str
    seed: int
    model: CompiledModel | None = field(repr=False, compare=False)  # None if it never got to an evaluation

    @property
    def status(self) -> Status:
        """The best attempt's, but ``interrupted`` if any was, and ``timeout`` if some were never begun."""
        if self.attempts[-1].status == "interrupted":
            return "interrupted"
        return "timeout" if self.untried else self.best.status

    @property
    def reason(self) -> str:
        if self.attempts[-1].status == "interrupted":
            return self.attempts[-1].reason
        if self.untried:
            return f"no time was left for learning rates {', '.join(f'{rate:g}' for rate in self.untried)}"
        return self.best.reason

    @property
    def score(self) -> float:
        return self.best.score

    @property
    def area(self) -> float:
        return self.best.area

    @property
    def metrics(self) -> dict[str, float]:
        return self.best.metrics

    @property
    def curve(self) -> tuple[Point, ...]:
        return self.best.curve

    @property
    def steps(self) -> int:
        return self.best.steps

    @property
    def learning_rate(self) -> float:
        return self.best.learning_rate

    @property
    def seconds(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def cpu_seconds(self) -> float:
        return sum(attempt.cpu_seconds for attempt in self.attempts)

    def as_json(self) -> dict[str, Any]:
        """The best attempt's fields, then all attempts; stable keys."""
        whole = {
            "status": self.status,
            "reason": self.reason,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }
        run = {"task": self.task, "spec_hash": self.spec_hash, "seed": self.seed}
        return asdict(self.best) | whole | run | {"attempts": [asdict(attempt) for attempt in self.attempts]}


def train(
    spec: ModelSpec,
    task_config: TaskConfig,
    recipe: Recipe,
    *,
    seed: int = 0,
    device: str = "cpu",
    directory: Path | None = None,
    resume: bool = True,
    on_step: Callable[[float, Progress, float], None] | None = None,
    interrupted: Callable[[], bool] | None = None,
    time_limit: float | None = None,
    until_step: int | None = None,
    learning_rates: Sequence[float] | None = None,
    score_by: ScoreBy = "final",
    gate: bool = True,
    zoo: Zoo | None = None,
    tasks: Tasks | None = None,
) -> TrainResult:
    """Train ``spec`` once per learning rate and keep the best by validation; a solved task ends the grid.

    ``directory`` gets checkpoints, ``result.json``, ``curve.csv`` and the best model (``compiler.load`` reads
    it); the same call goes on from there unless ``resume`` is false. ``until_step`` trains a prefix of the
    schedule, and a later call with a later one, or none, goes on as if it had never stopped.
    ``learning_rates`` are those of the recipe that are tried, all by default, and ``score_by`` says which is
    best. ``on_step(learning_rate, progress, loss)`` is called after every step that is looked at;
    ``interrupted()`` may stop the run after a step; ``time_limit`` is seconds for all rates. What befalls a
    model is a status, never an exception; a spec that does not fit the task is a SpecError.
    """
    if reason := task_config.misfit(spec):
        raise SpecError(problems=[spec.problem((), reason)])
    task = (tasks or load_tasks()).build(task_config, causal=spec.causal, seed=seed)
    if directory is not None:
        _claim(directory, _identity(spec, task, recipe, seed), resume=resume)
    attempts: list[Attempt] = []
    untried: tuple[float, ...] = ()
    best_model: CompiledModel | None = None
    rates = tuple(learning_rates or recipe.learning_rates)
    for n_tried, rate in enumerate(rates):
        left = None if time_limit is None else time_limit - sum(attempt.seconds for attempt in attempts)
        if attempts and left is not None and left <= 0:
            untried = rates[n_tried:]
            break
        watch = Watch(
            on_step=functools.partial(on_step, rate) if on_step else None,
            interrupted=interrupted,
            time_limit=left,
            until_step=until_step,
        )
        model = compile_spec(spec, seed=seed, device=device, gate=gate and not attempts, zoo=zoo)
        checkpoint = None if directory is None else checkpoint_of(directory, rate)
        progress = fit(model, task, recipe, learning_rate=rate, seed=seed, checkpoint=checkpoint, watch=watch)
        attempts.append(_attempt(model, task, recipe, rate, progress, until_step, score_by))
        if best_first(attempts)[0] is attempts[-1]:
            best_model = model
        if progress.solved or progress.status == "interrupted":
            break
    result = TrainResult(
        best=best_first(attempts)[0],
        attempts=tuple(attempts),
        untried=untried,
        task=task.record(),
        spec_hash=spec_hash(spec),
        seed=seed,
        model=best_model,
    )
    if directory is not None and result.status != "interrupted":
        _write(directory, result)
    return result


def best_first(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The highest score first; of equal ones the lowest loss, then the one that was tried first."""

    def merit(attempt: Attempt) -> tuple[bool, float, float]:
        loss = attempt.curve[-1].loss if attempt.curve else float("inf")
        return attempt.status in ("ok", "timeout"), attempt.score, -loss

    return sorted(attempts, key=merit, reverse=True)


def _attempt(
    model: CompiledModel,
    task: Task,
    recipe: Recipe,
    rate: float,
    progress: Progress,
    until_step: int | None,
    score_by: ScoreBy,
) -> Attempt:
    score, metrics = 0.0, {}
    curve = tuple(progress.curve)
    if progress.status in ("ok", "timeout"):
        found = evaluate(
            model,
            task,
            n_examples=recipe.final_examples,
            batch_size=recipe.batch_size,
            precision=recipe.precision,
        )
        score, metrics = task.score(found), task.values(found)
        if not curve or curve[-1].step < progress.step:  # it paused between two points
            curve = (*curve, _pause(progress, found, score))
    area = area_under_curve(curve, min(recipe.steps, until_step or recipe.steps))
    return Attempt(
        learning_rate=rate,
        status=progress.status,
        reason=progress.reason,
        solved=progress.solved,
        score=value_of(score_by, score=score, area=area, curve=curve, steps=recipe.steps),
        area=area,
        metrics=metrics,
        steps=progress.step,
        tokens=progress.tokens,
        seconds=progress.seconds,
        cpu_seconds=progress.cpu_seconds,
        curve=curve,
    )


def _pause(p: Progress, found: Metrics, score: float) -> Point:
    train_loss = p.summed_loss / max(1, p.summed_steps)
    return Point(p.step, p.tokens, p.seconds, train_loss, found.loss, found.accuracy, score)


def _identity(spec: ModelSpec, task: Task, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What a folder's checkpoints belong to."""
    return {
        "spec": spec_hash(spec),
        "task": task.record(),
        "recipe": recipe.model_dump(mode="json"),
        "seed": seed,
    }


def _claim(directory: Path, identity: dict[str, Any], *, resume: bool) -> None:
    """Make sure that ``directory`` is empty or holds this very training."""
    file = directory / "training.json"
    if not resume:
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    elif file.exists():
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(f"cannot be read: {error}", file=str(file), hint="use another folder") from error
        wanted = json.loads(json.dumps(identity))
        if other := [key for key in wanted if not isinstance(there, dict) or there.get(key) != wanted[key]]:
            raise SpecError(
                f"this folder holds a training with another {' and '.join(other)}",
                file=str(directory),
                hint="use another folder, or --no-resume to begin anew here",
            )
        return
    write_text(file, json.dumps(identity, indent=2) + "\n")


def _write(directory: Path, result: TrainResult) -> None:
    if result.model is not None:
        result.model.save(directory / "model")
    write_csv(directory / "curve.csv", result.curve)
    write_text(directory / "result.json", json.dumps(result.as_json(), indent=2) + "\n")
