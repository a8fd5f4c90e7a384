"""``search.run``: a study file and a folder -> SearchResult and everything that is written there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from archspec.errors import SpecError, did_you_mean
from archspec.study import Study, parse_memory
from compiler.device.info import resolve_device
from search import callbacks, executors, proposers, report
from search.candidates import SpecEvaluator
from search.determinism import check_repeatable
from search.driver import Listener, ignore, search
from search.estimate import Preview, estimate
from search.executors import Setup
from search.front import SearchResult
from search.gates import survey
from search.load import LoadedStudy, load_study
from search.measuring import check_reported
from search.trainings import Place

_MOST_WORKERS = 8


def run(
    study: LoadedStudy | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    trials: int | None = None,
    timeout: float | None = None,
    seed: int | None = None,
    workers: int | None = None,
    proposer: str | None = None,
    storage: str | None = None,
    executor: str = "local",
    executor_options: Iterable[str] = (),
    log: Iterable[str] = (),
    with_random: bool = False,
    deterministic: bool = False,
    overrides: Iterable[str] = (),
    plugins: Iterable[str] = (),
    listen: Listener = ignore,
    command: str = "",
    reuse: Iterable[str | os.PathLike[str]] = (),
) -> SearchResult:
    """Search, or go on with a search that was stopped; the arguments given here replace the study's.

    ``timeout`` is in seconds. ``workers`` are processes; by default one per core on CPU and one on CUDA.
    ``storage`` is an SQLAlchemy URL where the search is mirrored as a study of Optuna. ``executor`` is where
    jobs run: ``local``, ``ray`` or ``submitit``, with ``executor_options`` as ``KEY=VALUE``. ``log`` names
    trackers that hear of every trial: ``tensorboard``, ``mlflow``, ``wandb``. ``with_random`` trains as many
    random candidates afterwards, to compare with. ``deterministic`` makes the folder's tables and specs
    repeat byte for byte: one worker here, one thread, and no figure that is read off a clock. ``reuse`` adds
    folders of earlier searches to the study's.
    """
    kind = executors.find_kind(executor)
    options = executors.read_options(kind, executor_options)
    loaded = (
        study if isinstance(study, LoadedStudy) else load_study(study, overrides=overrides, plugins=plugins)
    )
    asked = changed(
        loaded.study,
        trials=trials,
        seed=seed,
        proposer=proposer,
        search_baselines=("random",) if with_random else None,
    )
    if deterministic:
        check_repeatable(asked, timeout=timeout, workers=workers, executor=kind.kind, locate=loaded.error)
    n_workers = 1 if deterministic else workers or kind.n_workers or default_workers(asked.target.device)
    evaluator = make_evaluator(loaded, asked, Path(out), n_workers=n_workers, deterministic=deterministic)
    threads = 1 if deterministic else max(1, n_cores() // n_workers)
    device = str(resolve_device(asked.target.device))
    worker = ("-m", "search.worker", str(threads), *loaded.plugins)
    trackers = callbacks.open_trackers(log, Path(out), asked.study)
    with callbacks.heard_by(trackers, listen) as hear:
        result = search(
            asked,
            evaluator,
            Path(out),
            make_executor=lambda folder: kind.open(
                Setup(folder, worker, n_workers, threads, device), options
            ),
            timeout_s=timeout,
            storage=storage,
            listen=hear,
            locate=loaded.error,
            reuse=(*loaded.reuse, *map(Path, reuse)),
            origin={
                "command": command,
                "executor": kind.kind,
                "workers": n_workers,
                "threads_per_worker": threads,
                "deterministic": deterministic,
            },
        )
    report.write(result, Path(out))
    return result


def preview(
    loaded: LoadedStudy,
    *,
    out: Path,
    trials: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
) -> Preview:
    """What ``run`` would do, and how long it would take; nothing is written."""
    asked = changed(loaded.study, trials=trials, seed=seed)
    n_workers = workers or default_workers(asked.target.device)
    evaluator = make_evaluator(loaded, asked, out, n_workers=n_workers)
    seen = survey(evaluator, asked.budgets, seed=asked.seed, locate=loaded.error, objectives=asked.objectives)
    evaluator.baselines()
    device = str(resolve_device(asked.target.device))
    return estimate(replace(loaded, study=asked), seen, out=out, n_workers=n_workers, device=device)


def changed(study: Study, **given: Any) -> Study:
    """The study with what was given in its place."""
    given = {name: value for name, value in given.items() if value is not None}
    if (kind := given.get("proposer")) is not None and kind not in proposers.kinds():
        raise SpecError(f"unknown proposer '{kind}'", hint=did_you_mean(kind, proposers.kinds()))
    return study.model_copy(update=given)


def make_evaluator(
    loaded: LoadedStudy, study: Study, out: Path, *, n_workers: int, deterministic: bool = False
) -> SpecEvaluator:
    """The evaluator of ``study``, which may differ from ``loaded.study`` in what the caller has changed."""
    check_reported(study, resolve_device(study.target.device), loaded.error)
    limit = study.limits.memory
    memory = parse_memory(limit, total=psutil.virtual_memory().total)
    place = Place(
        device=str(resolve_device(study.target.device)),
        weights=out.absolute() / "weights",
        threads=study.target.threads,
        memory=memory // n_workers if str(limit).endswith("%") else memory,
        deterministic=deterministic,
    )
    return SpecEvaluator(replace(loaded, study=study), place)


def default_workers(device: str) -> int:
    """One per core on CPU, one on CUDA."""
    return 1 if resolve_device(device).type == "cuda" else min(n_cores(), _MOST_WORKERS)


def n_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else (os.cpu_count() or 1)
