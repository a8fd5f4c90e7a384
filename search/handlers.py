"""What a worker can do with a spec: train it on a task, time it, put trained weights to the last tests."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from archspec import ModelSpec, SpecError
from archspec.fidelity import StepsTo
from archspec.source import parse_source
from compiler import CompiledModel, compile_spec, load, resolve
from compiler.causality_gate import causality_gate
from compiler.device.model_latency import measure_model
from search.recipe import Recipe
from search.score_by import ScoreBy
from search.scoring import evaluate_sealed
from search.sweep import read_sweep, write_sweep
from search.tasks import Tasks, load_tasks
from search.tasks.contract import Task
from search.train import TrainResult, train
from search.worker import Handler
from zoo import Zoo, load_zoo


def handlers(*, threads: int, plugins: tuple[str, ...]) -> dict[str, Handler]:
    """The jobs by name; ``threads`` is what a training on CPU may use."""
    torch.set_num_threads(threads)
    zoo, tasks = load_zoo(plugins), load_tasks(plugins)
    return {
        "train": functools.partial(train_job, zoo=zoo, tasks=tasks),
        "measure": functools.partial(measure_job, zoo=zoo),
        "final": functools.partial(final_job, zoo=zoo, tasks=tasks),
    }


def train_job(payload: Mapping[str, Any], *, zoo: Zoo, tasks: Tasks) -> dict[str, Any]:
    """One task, one seed; goes on from the checkpoints of a training that was cut short.

    ``until_step`` stops at a rung, and ``goes_on`` keeps the checkpoints for the next one. ``sweep`` names
    the lowest rung, whose best learning rates are the only ones here; it is trained first if need be.
    """
    directory = Path(payload["directory"])
    sweep = payload.get("sweep")
    if sweep is None:
        result = _trained(payload, None, zoo=zoo, tasks=tasks)
        document = training_document(result)
        if (keep := payload.get("keep_rates")) is not None:
            write_sweep(directory, result, keep=keep)
    else:
        lowest, keep = Path(sweep["directory"]), sweep["keep_rates"]
        swept = read_sweep(lowest)
        if swept is None:
            below = _trained({**payload, **sweep}, None, zoo=zoo, tasks=tasks)
            swept = write_sweep(lowest, below, keep=keep)
            if not sweep["goes_on"]:
                shutil.rmtree(lowest / "checkpoints", ignore_errors=True)
        result = _trained(payload, swept.kept(keep), zoo=zoo, tasks=tasks)
        document = training_document(result)
        if lowest == directory:
            others = zip(("seconds", "cpu_seconds"), swept.spent_on_others(keep), strict=True)
            document |= {name: document[name] + more for name, more in others if name in document}
    if not payload.get("goes_on", False):
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    return document


def _trained(
    payload: Mapping[str, Any], rates: tuple[float, ...] | None, *, zoo: Zoo, tasks: Tasks
) -> TrainResult:
    return train(
        _spec(payload, zoo),
        tasks.classes[payload["task"]["kind"]].Config.model_validate(payload["task"]),
        Recipe.model_validate(payload["recipe"]),
        seed=payload["seed"],
        device=payload["device"],
        directory=Path(payload["directory"]),
        until_step=payload.get("until_step"),
        learning_rates=rates,
        score_by=_score_by(payload.get("score_by", "final")),
        gate=payload["gate"],
        zoo=zoo,
        tasks=tasks,
    )


def _score_by(written: Any) -> ScoreBy:
    return StepsTo.model_validate(written) if isinstance(written, dict) else written


def training_document(result: TrainResult) -> dict[str, Any]:
    """What the ledger keeps of a training; figures that are no numbers make it a diverged one."""
    status, reason, best, loss = result.status, result.reason, result.best, _loss(result)
    figures = (best.score, loss, best.area, *best.metrics.values())
    if not all(map(math.isfinite, figures)):
        status, reason = ("diverged", "a figure is not finite") if status == "ok" else (status, reason)
        return {"status": status, "reason": reason, "seconds": result.seconds}
    return {
        "status": status,
        "reason": reason,
        "score": best.score,
        "loss": loss,
        "metrics": {**best.metrics, "area": best.area, "steps": best.steps},
        "curve": [[point.step, point.score] for point in best.curve],
        "learning_rate": best.learning_rate,
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
    }


def measure_job(payload: Mapping[str, Any], *, zoo: Zoo) -> dict[str, Any]:
    """Latency with fresh weights; a model that is not causal as promised is an error that names the layer."""
    target = payload["target"]
    model = compile_spec(_spec(payload, zoo), seed=payload["seed"], gate=True, zoo=zoo)
    with _threads(target["threads"]):
        latency = measure_model(
            model,
            batch_size=target["batch_size"],
            seq_len=target["seq_len"],
            phase=target["phase"],
            dtype=target["dtype"],
            device=target["device"],
            **payload["effort"],
            max_seconds=20.0,
        )
    return {
        "median_ms": latency.median_ms,
        "low_ms": latency.low_ms,
        "high_ms": latency.high_ms,
        "n": latency.n,
        "settled": latency.settled,
        "tier": "eager",
        "device": target["device_name"],
    }


def final_job(payload: Mapping[str, Any], *, zoo: Zoo, tasks: Tasks) -> dict[str, Any]:
    """Trained weights -> score on the sealed test split, and causality by perturbation of this very model."""
    model = load(Path(payload["directory"]) / "model", device=payload["device"], zoo=zoo)
    config = tasks.classes[payload["task"]["kind"]].Config.model_validate(payload["task"])
    task: Task = tasks.build(config, causal=model.spec.causal, seed=payload["seed"])
    recipe = Recipe.model_validate(payload["recipe"])
    metrics = evaluate_sealed(
        model,
        task,
        n_examples=recipe.final_examples,
        batch_size=recipe.batch_size,
        precision=recipe.precision,
    )
    causality, reason = _causality(model)
    values = task.values(metrics)
    return {"score": task.score(metrics), "metrics": values, "causality": causality, "reason": reason}


def _causality(model: CompiledModel) -> tuple[str, str]:
    try:
        causality_gate(model.graph, model.module, model.zoo, weights="own")
    except SpecError as error:
        return "failed", error.message
    return "passed", ""


def _spec(payload: Mapping[str, Any], zoo: Zoo) -> ModelSpec:
    return resolve(parse_source(payload["spec"], file="the candidate"), zoo)


def _loss(result: TrainResult) -> float:
    """Nats per target on validation."""
    if "loss" in result.metrics:
        return result.metrics["loss"]
    if "bits_per_byte" in result.metrics:
        return result.metrics["bits_per_byte"] * math.log(2)
    return result.curve[-1].loss if result.curve else 0.0


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
