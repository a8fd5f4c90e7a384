"""Trains every model of the space of our own table, once per seed: ``python benchmarks/own_table.py make``.

The table is a CSV file under a few lines of ``# key: value``; a row is one model with one seed, written when
both its trainings are through, so that the same command goes on where it was stopped. Costs are exact, in
closed form, at the study's target. Scores are of the validation split after the last step.
"""

from __future__ import annotations

import csv
import random
import sys
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from own_table_search import COSTS, read_rows
from record import provenance

from archspec.source import parse_source
from compiler import resolve
from search.candidates import SpecEvaluator
from search.evaluate import Candidate
from search.fingerprint import digest
from search.handlers import training_document
from search.load import LoadedStudy, load_study
from search.train import train
from search.trainings import Place

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "specs" / "studies" / "own_hybrids.yaml"


def make(table: Path, *, limit_s: float, share: Fraction = Fraction(1)) -> None:
    """Train what ``table`` lacks, seed after seed, each seed's models in an order at random.

    ``share`` of the recipe's steps: a prefix of the whole training.
    """
    torch.set_num_threads(1)
    loaded = load_study(STUDY)
    evaluator = SpecEvaluator(loaded, Place("cpu", table.parent, 1, None))
    candidates = [evaluator.candidate(genes) for genes in evaluator.enumerate()]
    random.Random(0).shuffle(candidates)
    wanted = [(seed, candidate) for seed in range(loaded.study.seeds) for candidate in candidates]
    done = _done(table)
    left = [(seed, candidate) for seed, candidate in wanted if (str(seed), candidate.hash) not in done]
    if not table.exists():
        _begin(table, {**header(loaded, evaluator), "share_of_steps": share})
    started = time.monotonic()
    for n, (seed, candidate) in enumerate(left, 1):
        if time.monotonic() - started > limit_s:
            return
        row = {
            "seed": seed,
            "hash": candidate.hash,
            "mixers": "-".join(candidate.genes.values()),
            **{name: int(candidate.costs[name]) for name in COSTS},
            **_trained(loaded, candidate, seed, share),
        }
        _append(table, row)
        seconds_left = (time.monotonic() - started) / n * (len(left) - n)
        _progress(n + len(wanted) - len(left), len(wanted), seconds_left)


def _trained(loaded: LoadedStudy, candidate: Candidate, seed: int, share: Fraction) -> dict[str, Any]:
    spec = resolve(parse_source(candidate.payload["spec"]), loaded.zoo)
    row: dict[str, Any] = {}
    for label, config in zip(loaded.study.labels, loaded.task_configs, strict=True):
        result = train(
            spec, config, loaded.recipe, seed=seed, gate=False, zoo=loaded.zoo, tasks=loaded.tasks,
            until_step=None if share == 1 else round(share * loaded.recipe.steps),
        )  # fmt: skip
        document = training_document(result)
        row |= {
            f"{label}_status": document["status"],
            f"{label}_score": round(document.get("score", 0.0), 6),
            f"{label}_loss": round(document["loss"], 6) if "loss" in document else "",
            f"{label}_area": round(document["metrics"]["area"], 6) if "metrics" in document else "",
            f"{label}_cpu_s": round(result.cpu_seconds, 2),
        }
    return row


def header(loaded: LoadedStudy, evaluator: SpecEvaluator) -> dict[str, Any]:
    """What the table says of itself."""
    identity = evaluator.identity().values
    return {
        **provenance(),
        "study": STUDY.relative_to(ROOT).as_posix(),
        "space_sha256": identity["space"],
        "tasks_sha256": identity["tasks"],
        "recipe_sha256": digest(loaded.recipe.model_dump(mode="json")),
        "threads": 1,
    }


def _begin(table: Path, head: Mapping[str, Any]) -> None:
    lines = [f"# {key}: {value}\n" for key, value in head.items()]
    table.write_text("".join(lines), encoding="utf-8")


def _append(table: Path, row: Mapping[str, Any]) -> None:
    has_names = any(not line.startswith("#") for line in table.read_text(encoding="utf-8").splitlines())
    with table.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if not has_names:
            writer.writeheader()
        writer.writerow(row)


def _done(table: Path) -> set[tuple[str, str]]:
    return {(row["seed"], row["hash"]) for row in read_rows(table)} if table.exists() else set()


def _progress(n: int, total: int, seconds_left: float) -> None:
    bar = "#" * (30 * n // total)
    line = f"\r[{bar:<30}] {n}/{total}, {seconds_left / 60:.0f} min left "
    print(line, end="", file=sys.stderr, flush=True)
