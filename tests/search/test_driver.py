"""The driver on a table: nothing twice, nothing infeasible, every outcome with its reason, one order."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from table_study import HANDLERS, InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from search.driver import Event, search
from search.executors import Completion, Job
from search.front import SearchResult
from search.ledger import FILE_NAME, Ledger
from search.solve import load_result


def run(out: Path, executor: InlineExecutor | None = None, **changes: Any) -> SearchResult:
    executor = executor or InlineExecutor()
    return search(make_study(**changes), TableEvaluator(), out, make_executor=lambda folder: executor)


def test_trains_as_many_candidates_as_asked_and_the_baselines_beside(tmp_path: Path) -> None:
    result = run(tmp_path, trials=10)
    trained = [row for row in result.rows if row.status == "done"]
    assert len(trained) == 11
    assert [row.baseline for row in trained].count("all_attention") == 1
    assert result.stopped == "10 candidates trained"
    assert result.complete


def test_no_architecture_is_trained_twice(tmp_path: Path) -> None:
    executor = InlineExecutor()
    result = run(tmp_path, executor, trials=40, budgets={})
    done = Counter(row.hash for row in result.rows if row.status == "done")
    assert set(done.values()) == {1}
    trainings = Counter((json.dumps(job.payload), job.label) for job in executor.jobs if job.do == "train")
    assert set(trainings.values()) == {1}
    duplicates = [row for row in result.rows if row.status == "duplicate"]
    assert duplicates, "the dead gene makes duplicates"
    assert all("same architecture as trial" in row.reason for row in duplicates)


def test_a_closed_form_budget_refuses_before_anything_runs(tmp_path: Path) -> None:
    executor = InlineExecutor()
    result = run(tmp_path, executor, trials=20, budgets={"params": "<= 400"})
    refused = [row for row in result.rows if row.status == "refused"]
    assert refused
    assert all("params" in row.reason and "is not <= 400" in row.reason for row in refused if row.hash)
    trained = [row for row in result.rows if row.status == "done" and row.baseline is None]
    assert len(trained) == 20
    assert all(row.costs["params"] <= 400 for row in trained)
    assert result.refusals["params"] == len([row for row in refused if "params" in row.reason])


def test_what_is_measured_too_slow_is_refused_untrained(tmp_path: Path) -> None:
    executor = InlineExecutor()
    result = run(tmp_path, executor, trials=12, budgets={"latency_ms": "<= 4"})
    slow = [row for row in result.rows if row.status == "refused" and row.latency is not None]
    assert slow
    assert all(row.latency is not None and row.latency.value > 4 for row in slow)
    trained_widths = {job.payload["genes"]["width"] for job in executor.jobs if job.do == "train"}
    assert max(trained_widths) <= 4


def test_measurements_run_alone(tmp_path: Path) -> None:
    executor = InlineExecutor(n_workers=3)
    run(tmp_path, executor, trials=12)
    assert {n for do, n in executor.at_once if do == "measure"} == {1}
    assert max(n for do, n in executor.at_once if do == "train") == 3


def test_a_baseline_is_trained_whatever_it_costs_and_is_marked_infeasible(tmp_path: Path) -> None:
    result = run(tmp_path, budgets={"params": "<= 300"})
    (baseline,) = result.baselines
    assert baseline.status == "done"
    assert not baseline.feasible
    assert baseline.violations == ("params 800 is not <= 300",)
    assert not baseline.on_front


def test_the_front_is_the_non_dominated_feasible_set(tmp_path: Path) -> None:
    result = run(tmp_path, trials=60, budgets={"params": "<= 1200", "score": ">= 0.4"})
    feasible = [row for row in result.rows if row.feasible]
    assert all(row.objectives["score"] >= 0.4 for row in feasible)

    def dominated(row: Any) -> bool:
        mine = (-row.objectives["score"], row.objectives["latency_ms"])
        others = [(-o.objectives["score"], o.objectives["latency_ms"]) for o in feasible]
        return any(o != mine and o[0] <= mine[0] and o[1] <= mine[1] for o in others)

    assert {row.trial for row in result.front} == {row.trial for row in feasible if not dominated(row)}
    assert all(row.test_scores for row in result.front), "the sealed test is read for the front"
    assert all(row.causality == "passed" for row in result.front)
    off = [row for row in result.trained if not row.on_front and row.baseline is None]
    assert off
    assert not any(row.test_scores for row in off), "and for nothing else"


def test_a_hybrid_beats_the_baseline_and_the_verdict_says_so(tmp_path: Path) -> None:
    result = run(tmp_path, trials=60, budgets={}, aggregate="min")
    assert result.verdict.beats_every_baseline
    assert "beats every baseline: all_attention score 0.18" in result.verdict.sentence


def test_an_error_in_a_job_fails_the_trial_alone_with_its_reason(tmp_path: Path) -> None:
    def break_(job: Job) -> Completion | None:
        is_it = job.do == "train" and job.payload["genes"]["width"] == 3 and job.label == "parity"
        return Completion(job, "error", reason="ValueError: three") if is_it else None

    result = run(tmp_path, InlineExecutor(break_=break_), trials=40, budgets={})
    failed = [row for row in result.rows if row.status == "failed"]
    assert failed
    assert {row.reason for row in failed} == {"ValueError: three (parity)"}
    assert {row.genes["width"] for row in failed} == {3}
    assert result.failures == {"ValueError: three (parity)": len(failed)}
    assert not any(row.genes["width"] == 3 for row in result.rows if row.status == "done")


def test_a_diverged_training_is_a_result_and_a_failure(tmp_path: Path) -> None:
    def break_(job: Job) -> Completion | None:
        if job.do == "train" and job.payload["genes"]["width"] == 2:
            bad = {**HANDLERS["train"](job.payload), "status": "diverged", "reason": "loss is nan"}
            return Completion(job, "done", bad)
        return None

    result = run(tmp_path, InlineExecutor(break_=break_), trials=40, budgets={})
    failed = [row for row in result.rows if row.status == "failed"]
    assert failed
    assert all(row.reason.startswith("diverged on ") and "loss is nan" in row.reason for row in failed)


def test_a_worker_that_dies_once_costs_nothing_and_twice_poisons_the_candidate(tmp_path: Path) -> None:
    deaths: Counter[str] = Counter()

    def break_(job: Job) -> Completion | None:
        genes = job.payload["genes"]
        if job.do != "train" or job.label != "copy" or genes["width"] not in (1, 2):
            return None
        deaths[str(genes)] += 1
        if genes["width"] == 1 and deaths[str(genes)] > 1:
            return None
        return Completion(job, "died", reason="its worker was killed by SIGKILL")

    result = run(tmp_path, InlineExecutor(break_=break_), trials=60, budgets={})
    once = [row for row in result.rows if row.genes["width"] == 1 and row.status in ("done", "failed")]
    twice = [row for row in result.rows if row.genes["width"] == 2 and row.status in ("done", "failed")]
    assert once
    assert {row.status for row in once} == {"done"}
    assert twice
    assert {row.reason for row in twice} == {
        "poisoned: 2 workers died on it: its worker was killed by SIGKILL (copy)"
    }


def test_the_space_runs_out_and_every_candidate_has_been_tried(tmp_path: Path) -> None:
    result = run(tmp_path, trials=1_000, batch=32, budgets={"params": "<= 400"})
    evaluator = TableEvaluator()
    possible = set()
    for genes in evaluator.enumerate():
        if not (genes["first"] == "pool" and genes["width"] == 8):
            candidate = evaluator.candidate(genes)
            if candidate.costs["params"] <= 400:
                possible.add(candidate.hash)
    assert {row.hash for row in result.rows if row.status == "done" and row.baseline is None} == possible
    assert result.stopped == "no candidate is left that is new and within the budgets"


@pytest.mark.parametrize("proposer", ["random", "tpe"])
def test_proposals_do_not_depend_on_the_number_of_workers(proposer: str, tmp_path: Path) -> None:
    def genes(folder: str, n_workers: int) -> list[Any]:
        result = run(tmp_path / folder, InlineExecutor(n_workers=n_workers), proposer=proposer, trials=24)
        return [(row.trial, dict(row.genes), row.status) for row in result.rows]

    assert genes("one", 1) == genes("three", 3)


@pytest.mark.parametrize("proposer", ["random", "tpe"])
def test_another_seed_proposes_something_else(proposer: str, tmp_path: Path) -> None:
    first = run(tmp_path / "a", proposer=proposer, seed=1)
    second = run(tmp_path / "b", proposer=proposer, seed=2)
    assert [row.genes for row in first.rows] != [row.genes for row in second.rows]


@pytest.mark.parametrize("proposer", ["random", "tpe"])
def test_running_again_with_more_trials_equals_running_at_once(proposer: str, tmp_path: Path) -> None:
    run(tmp_path / "twice", proposer=proposer, trials=8)
    twice = run(tmp_path / "twice", proposer=proposer, trials=20)
    once = run(tmp_path / "once", proposer=proposer, trials=20)
    assert [(r.trial, r.hash, r.status) for r in twice.rows] == [
        (r.trial, r.hash, r.status) for r in once.rows
    ]


def test_the_same_command_again_runs_nothing(tmp_path: Path) -> None:
    first = run(tmp_path, trials=8)
    executor = InlineExecutor()
    again = run(tmp_path, executor, trials=8)
    assert executor.jobs == []
    assert again.rows == first.rows


def test_budgets_may_change_and_the_front_is_solved_again(tmp_path: Path) -> None:
    run(tmp_path, trials=20, budgets={"params": "<= 1200"})
    executor = InlineExecutor()
    tighter = run(tmp_path, executor, trials=20, budgets={"params": "<= 300"})
    assert all(row.costs["params"] <= 300 for row in tighter.front)
    assert not any(job.do == "train" for job in executor.jobs), "twenty are trained already"


def test_what_a_tight_budget_refused_may_be_tried_under_a_looser_one(tmp_path: Path) -> None:
    tight = run(tmp_path, trials=6, budgets={"params": "<= 200"})
    refused = {row.hash for row in tight.rows if row.status == "refused" and row.costs}
    assert refused
    loose = run(tmp_path, trials=100, batch=20, budgets={})
    assert refused <= {row.hash for row in loose.rows if row.status == "done"}


def test_an_impossible_budget_is_told_before_anything_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SpecError) as caught:
        run(out, budgets={"params": "<= 39"})
    assert "no candidate meets 'params <= 39'" in caught.value.message
    assert "(pool | pool) has 40" in caught.value.message
    assert caught.value.path == "budgets.params"
    assert not out.exists()


def test_budgets_that_exclude_each_other_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none of the \d+ candidates meets all budgets at once"):
        search(
            make_study(budgets={"params": "<= 100", "kv_bytes_per_token": ">= 8"}),
            _TwoCosts(),
            tmp_path / "out",
            make_executor=lambda folder: InlineExecutor(),
        )


class _TwoCosts(TableEvaluator):
    def candidate(self, genes: Any) -> Any:
        from dataclasses import replace

        found = super().candidate(genes)
        return replace(found, costs={**found.costs, "kv_bytes_per_token": genes["width"]})


def test_another_space_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path, trials=2)
    with pytest.raises(SpecError, match="holds a search with another space"):
        search(
            make_study(trials=2),
            TableEvaluator(space="other"),
            tmp_path,
            make_executor=lambda folder: InlineExecutor(),
        )


def test_baselines_that_are_the_same_architecture_are_refused(tmp_path: Path) -> None:
    genes = {"first": "pool", "second": "pool", "width": 1, "dead": 0}
    evaluator = TableEvaluator(baselines={"one": genes, "two": genes | {"dead": 1}})
    with pytest.raises(SpecError, match="baselines 'one' and 'two' are the same architecture"):
        search(make_study(), evaluator, tmp_path, make_executor=lambda folder: InlineExecutor())


def test_a_baseline_named_later_marks_the_trial_that_found_it_first(tmp_path: Path) -> None:
    study = make_study(trials=1_000, batch=64, budgets={})
    for names in ({}, None):
        evaluator = TableEvaluator(baselines=names)
        result = search(study, evaluator, tmp_path, make_executor=lambda folder: InlineExecutor())
    marked = [row for row in result.rows if row.baseline == "all_attention" and row.status == "done"]
    assert len(marked) == 1
    assert marked[0].genes["first"] == marked[0].genes["second"] == "attention"


def test_ctrl_c_leaves_a_folder_to_go_on_with(tmp_path: Path) -> None:
    def break_(job: Job) -> Completion | None:
        if len(executor.jobs) > 30:
            raise KeyboardInterrupt
        return None

    executor = InlineExecutor(break_=break_)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, executor, trials=20)
    half = load_result(tmp_path)
    assert not half.complete
    assert half.stopped == "interrupted"
    whole = run(tmp_path, trials=20)
    assert {row.trial for row in half.trained} <= {row.trial for row in whole.trained}
    once = run(tmp_path / "once", trials=20)
    assert [row.hash for row in whole.rows] == [row.hash for row in once.rows]


def test_a_time_limit_stops_the_trials_and_still_gives_a_front(tmp_path: Path) -> None:
    executor = InlineExecutor()
    out = tmp_path / "out"
    seen: list[Event] = []

    def listen(event: Event) -> None:
        seen.append(event)

    result = search(
        make_study(trials=10),
        TableEvaluator(),
        out,
        make_executor=lambda folder: executor,
        timeout_s=0.0,
        listen=listen,
    )
    assert result.stopped == "time limit"
    assert executor.jobs == []
    assert seen[-1].kind == "closed"
    assert len(run(out, trials=10).trained) == 11


def test_a_leak_found_with_trained_weights_keeps_a_spec_off_the_front(tmp_path: Path) -> None:
    def break_(job: Job) -> Completion | None:
        if job.do == "final" and job.payload["genes"]["second"] == "mamba2":
            leaky = {**HANDLERS["final"](job.payload), "causality": "failed"}
            return Completion(job, "done", leaky)
        return None

    result = run(tmp_path, InlineExecutor(break_=break_), trials=100, batch=20, budgets={})
    leaky = [row for row in result.rows if row.causality == "failed"]
    assert leaky
    assert not any(row.on_front for row in leaky)
    assert all(row.causality == "passed" for row in result.front)
    assert all(row.violations == ("the trained model is not causal",) for row in leaky)


def test_every_recorded_event_is_in_the_ledger_in_whole_rounds(tmp_path: Path) -> None:
    run(tmp_path, trials=12)
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    assert ledger.pending() == []
    numbers = [trial.number for trial in ledger.trials()]
    ledger.close()
    assert numbers == list(range(len(numbers)))


def test_the_ledger_is_append_only(tmp_path: Path) -> None:
    run(tmp_path, trials=2)
    db = sqlite3.connect(tmp_path / FILE_NAME)
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        db.execute("UPDATE trials SET status = 'done'")
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        db.execute("DELETE FROM evidence")
    db.close()


def test_every_round_proposes_afresh_and_does_not_fall_back_on_a_list(tmp_path: Path) -> None:
    run(tmp_path, trials=16, budgets={})
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    proposers = Counter(trial.document["proposer"] for trial in ledger.trials())
    ledger.close()
    assert set(proposers) == {"baseline", "random"}


def test_a_slow_baseline_is_trained_all_the_same(tmp_path: Path) -> None:
    result = run(tmp_path, trials=4, budgets={"latency_ms": "<= 3"})
    (baseline,) = result.baselines
    assert baseline.status == "done"
    assert baseline.violations == ("latency_ms 4 ms is not <= 3",)
    assert set(baseline.scores) == {"copy", "parity"}


class _Endless(TableEvaluator):
    """The same space as one that cannot be counted."""

    def size(self) -> tuple[float, bool]:
        return float("inf"), True

    def enumerate(self) -> Any:
        raise AssertionError("a space without end is never enumerated")


def test_a_space_without_end_is_sampled(tmp_path: Path) -> None:
    result = search(
        make_study(trials=30), _Endless(), tmp_path, make_executor=lambda folder: InlineExecutor()
    )
    assert len(result.trained) == 31
    assert result.space_size == (None, True)


def test_an_endless_space_that_has_nothing_new_left_ends_the_search(tmp_path: Path) -> None:
    result = search(
        make_study(trials=1_000, budgets={"params": "<= 100"}),
        _Endless(),
        tmp_path,
        make_executor=lambda folder: InlineExecutor(),
    )
    assert result.stopped == "no candidate is left that is new and within the budgets"
    assert all(row.costs["params"] <= 100 for row in result.trained if row.baseline is None)
