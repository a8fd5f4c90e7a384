"""What a search would do and how long it would take, before it is begun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from archspec import ModelSpec, SpecError
from archspec.source import parse_source
from compiler import resolve
from search.evaluate import Candidate
from search.folder import holds_search, read_ledger
from search.gates import Survey, counts, describe
from search.ladder import cost_of, spent
from search.ledger import Trial
from search.load import LoadedStudy
from search.tasks.contract import TaskConfig
from search.train import train

_N_STEPS = 12  # of one candidate on each task
_MEASURING_S = 1.5  # of one latency, alone on the machine


@dataclass(frozen=True)
class Preview:
    """``seconds`` is for what is left, on all workers together; ``how`` says where it comes from."""

    survey: dict[str, Any]
    n_trained: int
    n_left: int
    seconds: float
    how: str
    lines: tuple[str, ...]


def estimate(loaded: LoadedStudy, seen: Survey, *, out: Path, n_workers: int, device: str) -> Preview:
    """From the finished trials of the folder where there are some, else from a few steps of one candidate."""
    done = [trial for trial in _finished(out) if trial.status in ("done", "dropped", "failed")]
    names = {trial.document.get("baseline") for trial in done}
    trained = int(spent(done))
    n_baselines = sum(name not in names for name in loaded.study.baselines)
    left = max(0, loaded.study.trials - trained) + n_baselines
    if done:
        each = sum(trial.document["seconds"] for trial in done) / float(sum(map(cost_of, done)))
        how = f"from {len(done)} candidates that are trained already"
    else:
        each, how = _timed(loaded, seen.example, n_workers=n_workers, device=device)
    measured = "latency_ms" in {*loaded.study.objectives, *loaded.study.budgets}
    seconds = left * (each / n_workers + (_MEASURING_S if measured else 0.0))
    lines = (
        *describe(seen),
        f"{trained} candidates are trained, {left} are left, {n_baselines} of them baselines",
        f"about {_spoken(seconds)} on {n_workers} workers: {each:.1f} s of training each, {how}",
    )
    return Preview(counts(seen), trained, left, seconds, how, lines)


def _finished(out: Path) -> list[Trial]:
    if not holds_search(out):
        return []
    ledger = read_ledger(out)
    try:
        return ledger.trials()
    finally:
        ledger.close()


def _timed(
    loaded: LoadedStudy, candidate: Candidate | None, *, n_workers: int, device: str
) -> tuple[float, str]:
    """Seconds of one candidate's trainings, from a few steps and one validation on each task."""
    if candidate is None:
        raise loaded.error(("budgets",), "no sampled candidate is within the budgets, so none can be timed")
    spec = resolve(parse_source(candidate.payload["spec"]), loaded.zoo)
    recipe, total = loaded.recipe, 0.0
    n_steps = min(_N_STEPS, recipe.steps)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // n_workers))
    try:
        for config in loaded.task_configs:
            short, long = (_seconds(loaded, spec, config, n, device) for n in (1, n_steps))
            step = max(0.0, long - short) / max(1, n_steps - 1)
            validation = max(0.0, short - step)  # and what every start costs
            total += step * recipe.steps + validation * min(recipe.curve_points, recipe.steps)
    finally:
        torch.set_num_threads(before)
    how = f"measured on {n_steps} steps of one candidate on each task"
    return total * len(recipe.learning_rates) * loaded.study.seeds, how


def _seconds(loaded: LoadedStudy, spec: ModelSpec, config: TaskConfig, n_steps: int, device: str) -> float:
    """The beginning of a training: ``n_steps`` steps and one validation."""
    recipe = loaded.recipe.model_copy(update={"learning_rates": loaded.recipe.learning_rates[:1]})
    result = train(
        spec,
        config,
        recipe,
        device=device,
        until_step=n_steps,
        gate=False,
        zoo=loaded.zoo,
        tasks=loaded.tasks,
    )
    if result.status != "ok":
        raise SpecError(f"a candidate cannot be trained: {result.status}: {result.reason}")
    return result.seconds


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3_600:.1f} hours"
