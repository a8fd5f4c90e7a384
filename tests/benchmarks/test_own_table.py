"""Our own table of small hybrids: whole, of the models that it names, and searched well by the default."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path

import pytest
from own_table_make import STUDY, header
from own_table_rungs import BATCH, LADDERS, QUARTER, run, share_at
from own_table_search import (
    COSTS,
    MIXERS,
    N_LAYERS,
    TABLE,
    OwnTable,
    curve,
    evaluated,
    read_rows,
    read_table,
    study_of,
)
from scipy.stats import spearmanr

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


@pytest.mark.parametrize("file", [TABLE, QUARTER], ids=lambda file: file.stem)
def test_every_model_is_there_once_for_each_seed(file: Path, loaded: LoadedStudy) -> None:
    rows = read_rows(file)
    wanted = {
        (str(seed), "-".join(mixers))
        for seed in range(loaded.study.seeds)
        for mixers in itertools.product(MIXERS, repeat=N_LAYERS)
    }
    assert {(row["seed"], row["mixers"]) for row in rows} == wanted
    assert len(rows) == len(wanted) == loaded.study.seeds * N_MODELS
    assert len({row["hash"] for row in rows}) == N_MODELS
    assert read_table(file).n_seeds == loaded.study.seeds


@pytest.mark.parametrize("file", [TABLE, QUARTER], ids=lambda file: file.stem)
def test_every_training_ran_to_its_end_with_a_score(file: Path) -> None:
    for row in read_rows(file):
        assert row["copy_status"] == row["parity_status"] == "ok", row
        assert all(0 <= float(row[f"{task}_score"]) <= 1 for task in ("copy", "parity")), row


@pytest.mark.parametrize("file", [TABLE, QUARTER], ids=lambda file: file.stem)
def test_it_is_of_the_space_tasks_and_recipe_of_its_study(
    file: Path, loaded: LoadedStudy, evaluator: SpecEvaluator
) -> None:
    lines = [line[2:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line[0] == "#"]
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


def test_a_quarter_of_a_training_tells_something_and_not_everything(table: OwnTable) -> None:
    quarter = read_table(QUARTER)
    models = list(table.entries)
    found = spearmanr(*([t.entries[m].score for m in models] for t in (table, quarter))).statistic
    assert 0.3 < found < 0.99


@pytest.mark.parametrize("ladder", LADDERS)
def test_a_ladder_spends_no_more_than_it_may(table: OwnTable, ladder: str) -> None:
    others = {"fidelity": dict(LADDERS[ladder])} if LADDERS[ladder] else {}
    study = study_of("predictor", budgets={}, trials=16, batch=BATCH, seed=0, others=others)
    steps, _ = run(table, read_table(QUARTER), study)
    spent = [cost for cost, _ in steps]
    assert spent == sorted(spent)
    assert 14 < spent[-1] <= 16
    n_whole = sum(entry is not None for _, entry in steps)
    if not others:
        assert n_whole == len(steps) == 16
    elif LADDERS[ladder]["audit"] == 0:
        assert n_whole < len(steps), "the rung turns some away"


def test_what_was_found_when_so_much_was_spent() -> None:
    shares, costs = [0.1, 0.1, 0.5, 0.9], [0.25, 0.5, 1.5, 2.5]
    assert share_at(shares, costs, 0.1) == 0.0
    assert share_at(shares, costs, 1.5) == 0.5
    assert share_at(shares, costs, 9) == 0.9
