"""Genes and proposers: one static set of genes for every trial, fresh proposals, complete constraints."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from archspec.source import parse_source
from archspec.space import Space
from search.candidates import _gene
from search.driver import search
from search.genome import Gene, Genome
from search.mirror import Mirror, constraints, frozen_trial
from search.proposers import Past
from search.storage import parse_storage

GENOME = Genome(
    (
        Gene("mixer", "choice", options=("attention", None, 3)),
        Gene("width", "int", low=2, high=10, step=2),
        Gene("size", "int", low=1, high=64, log=True),
        Gene("share", "float", low=0.1, high=0.9),
    )
)


def test_samples_are_values_of_their_genes_and_of_their_distributions() -> None:
    rng = random.Random(0)
    for _ in range(200):
        genes = GENOME.sample(rng)
        assert genes.keys() == GENOME.distributions.keys()
        for gene in GENOME.genes:
            assert gene.holds(genes[gene.name]), gene
            distribution = gene.distribution
            assert distribution._contains(distribution.to_internal_repr(genes[gene.name]))


def test_every_option_and_both_ends_are_reached() -> None:
    rng = random.Random(0)
    seen: dict[str, set[Any]] = {}
    for _ in range(500):
        for name, value in GENOME.sample(rng).items():
            seen.setdefault(name, set()).add(value)
    assert seen["mixer"] == {"attention", None, 3}
    assert seen["width"] == {2, 4, 6, 8, 10}
    assert {1, 64} <= seen["size"]


def test_neighbours_are_other_values() -> None:
    assert set(GENOME.by_name["mixer"].neighbours(None)) == {"attention", 3}
    assert set(GENOME.by_name["width"].neighbours(4)) == {2, 6, 10}


def test_a_space_s_holes_of_all_branches_are_genes() -> None:
    space = Space(
        parse_source(
            "archspec: 1\nlayers:\n"
            "  - token_mixer: {choice: {a: {kind: attention, window: {int: [8, 32], step: 8}}, b: pool}}\n"
        )
    )
    genome = Genome(tuple(_gene(hole) for hole in space.holes))
    assert list(genome.by_name) == ["layers[0].token_mixer", "layers[0].token_mixer<a>.window"]
    for _ in range(20):
        space.fill(genome.sample(random.Random(_)))


def test_constraints_have_every_key_in_one_order() -> None:
    study = make_study(budgets={"score": ">= 0.5", "params": "<= 100", "latency_ms": "<= 2"})
    found = constraints(study.budgets, {"latency_ms": 3.0, "score": 0.75, "params": 100.0, "loss": 1.0})
    assert list(found.items()) == [("latency_ms", 1.0), ("params", 0.0), ("score", -0.25)]


def test_a_refused_candidate_is_told_as_failed_and_never_as_infeasible() -> None:
    trial = frozen_trial(GENOME, Past(GENOME.sample(random.Random(0)), "refused"))
    assert trial.state == optuna.trial.TrialState.FAIL
    assert trial.constraints == {}


def test_the_mirror_holds_every_trial_once_with_its_constraints(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mirror.db'}"
    for trials in (4, 8):
        result = search(
            make_study(trials=trials, budgets={"params": "<= 900", "score": ">= 0.2"}),
            TableEvaluator(),
            tmp_path / "out",
            make_executor=lambda folder: InlineExecutor(),
            storage=url,
        )
    (name,) = optuna.study.get_all_study_names(url)
    assert name == "table-space"
    study = optuna.load_study(study_name=name, storage=url)
    numbers = [trial.user_attrs["archspec:trial"] for trial in study.trials]
    assert sorted(numbers) == [row.trial for row in result.rows if row.status != "duplicate"]
    complete = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(complete) == len(result.trained)
    for trial in complete:
        assert {"params", "score"} <= set(trial.constraints)
        named = [trial.constraints[name] for name in ("params", "score")]
        assert trial.system_attrs["constraints"] == named, "what optuna-dashboard reads"
    best = {trial.user_attrs["archspec:trial"] for trial in study.best_trials}
    assert {row.trial for row in result.front} == best


def test_a_storage_that_cannot_be_used_is_one_clear_error_without_its_password() -> None:
    with pytest.raises(SpecError) as caught:
        Mirror(parse_storage("postgresql://me:secret@nowhere.invalid/db"), "x", GENOME, ["maximize"])
    assert "secret" not in str(caught.value)
    assert "--storage" in caught.value.message


def test_a_url_is_shown_without_its_password() -> None:
    for url in ("mysql://me:secret@host/db", "mysql://me@host/db?password=secret"):
        assert parse_storage(url).shown == "mysql://me@host/db"
        assert "secret" not in repr(parse_storage(url))
    with pytest.raises(SpecError, match="--storage is no URL") as caught:
        parse_storage("::secret")
    assert "secret" not in str(caught.value)
