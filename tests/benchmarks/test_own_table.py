"""Our own table of small hybrids: whole, of the models that it names, and searched well by the default."""

from __future__ import annotations

import itertools
import statistics

import pytest
from own_table_make import STUDY, header
from own_table_search import COSTS, MIXERS, N_LAYERS, TABLE, OwnTable, curve, evaluated, read_rows, read_table

from archspec.study import Study
from search.candidates import Place, SpecEvaluator
from search.load import LoadedStudy, load_study

N_MODELS = len(MIXERS) ** N_LAYERS
N_EVALUATIONS = N_MODELS // 4
SEEDS = (0, 1, 2)
DEFAULT = Study.model_fields["proposer"].default


@pytest.fixture(scope="module")
def table() -> OwnTable:
    return read_table()


@pytest.fixture(scope="module")
def loaded() -> LoadedStudy:
    return load_study(STUDY)


@pytest.fixture(scope="module")
def evaluator(loaded: LoadedStudy) -> SpecEvaluator:
    return SpecEvaluator(loaded, Place("cpu", TABLE.parent, 1, None))


def test_every_model_is_there_once_for_each_seed(table: OwnTable, loaded: LoadedStudy) -> None:
    rows = read_rows(TABLE)
    wanted = {
        (str(seed), "-".join(mixers))
        for seed in range(loaded.study.seeds)
        for mixers in itertools.product(MIXERS, repeat=N_LAYERS)
    }
    assert {(row["seed"], row["mixers"]) for row in rows} == wanted
    assert len(rows) == len(wanted) == loaded.study.seeds * N_MODELS
    assert len({row["hash"] for row in rows}) == N_MODELS
    assert table.n_seeds == loaded.study.seeds


def test_every_training_ran_to_its_end_with_a_score() -> None:
    for row in read_rows(TABLE):
        assert row["copy_status"] == row["parity_status"] == "ok", row
        assert all(0 <= float(row[f"{task}_score"]) <= 1 for task in ("copy", "parity")), row


def test_it_is_of_the_space_tasks_and_recipe_of_its_study(
    loaded: LoadedStudy, evaluator: SpecEvaluator
) -> None:
    lines = [line[2:].strip() for line in TABLE.read_text(encoding="utf-8").splitlines() if line[0] == "#"]
    written = dict(line.split(": ", 1) for line in lines)
    now = header(loaded, evaluator)
    for key in ("study", "space_sha256", "tasks_sha256", "recipe_sha256"):
        assert written[key] == now[key], key


def test_hashes_and_costs_are_those_of_the_models(table: OwnTable, evaluator: SpecEvaluator) -> None:
    for genes in evaluator.enumerate():
        candidate = evaluator.candidate(genes)
        entry = table.entries[tuple(genes.values())]
        assert candidate.hash == entry.hash
        assert {name: candidate.costs[name] for name in COSTS} == entry.costs


def test_the_default_finds_the_front_in_a_quarter_of_the_evaluations(table: OwnTable) -> None:
    shares = [_share(table, DEFAULT, seed) for seed in SEEDS]
    assert min(shares) >= 0.95, "of the hypervolume of all 256"
    by_chance = [_share(table, "random", seed) for seed in SEEDS]
    assert statistics.fmean(by_chance) < 0.95 < statistics.fmean(shares)


def _share(table: OwnTable, kind: str, seed: int) -> float:
    found = evaluated(table, kind, budgets={}, trials=N_EVALUATIONS, batch=8, seed=seed)
    assert len({entry.hash for entry in found}) == len(found) == N_EVALUATIONS
    return curve(table, found, {})[-1]
