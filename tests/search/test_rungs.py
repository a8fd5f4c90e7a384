"""Rungs on a table: who is promoted, what it costs, what a low rung that tells nothing is worth, and kills."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from rung_table import RUNG_HANDLERS, STUDY, RungTable
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from search.driver import search
from search.executors import Completion, Job
from search.front import SearchResult
from search.ladder import spent
from search.ledger import FILE_NAME, Ledger, Trial
from search.promotion import Climber, promoted
from search.proxy_validity import AUDIT
from search.report.page import render
from search.solve import load_result

SCRIPT = Path(__file__).with_name("rung_table.py")


def on_rungs(job: Job) -> Completion:
    return Completion(job, "done", RUNG_HANDLERS[job.do](job.payload), seconds=0.1)


def run(
    out: Path,
    *,
    executor: InlineExecutor | None = None,
    proxy: Any = "faithful",
    table: RungTable | None = None,
    **changes: Any,
) -> SearchResult:
    study = make_study(**STUDY | changes)
    evaluator = table or RungTable(study.fidelity, proxy=proxy)
    return search(
        study, evaluator, out, make_executor=lambda folder: executor or InlineExecutor(break_=on_rungs)
    )


def trials_in(out: Path) -> list[Trial]:
    ledger = Ledger(out / FILE_NAME, writable=False)
    try:
        return ledger.trials()
    finally:
        ledger.close()


def climbing(trials: list[Trial]) -> list[Trial]:
    """Those that were neither audited nor baselines."""
    return [
        t
        for t in trials
        if t.status in ("done", "dropped") and t.document["proposer"] not in (AUDIT, "baseline")
    ]


def test_the_audit_and_the_baselines_climb_every_rung_and_a_third_of_the_others(tmp_path: Path) -> None:
    result = run(tmp_path)
    trials = trials_in(tmp_path)
    audited = [t for t in trials if t.document["proposer"] == AUDIT]
    assert len(audited) == 8
    assert {t.status for t in audited} == {"done"}
    assert all(row.status == "done" for row in result.baselines)
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    for round_ in range(1, ledger.next_round()):
        asked = [a.number for a in ledger.round_of(round_)]
        status = Counter(t.status for t in trials if t.number in asked)
        assert status["done"] == -(-len(asked) // 3)
        assert status["dropped"] == len(asked) - status["done"]
    ledger.close()
    assert result.proxy is not None
    assert result.proxy.used == ("steps 1/9",)
    assert (result.proxy.n, result.proxy.strata) == (8, "latency_ms")


def test_those_that_go_on_are_those_that_the_definition_names(tmp_path: Path) -> None:
    run(tmp_path, objectives={"score": "maximize", "latency_ms": "minimize"})
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    closed = {t.number: t for t in ledger.trials()}
    n_judged = 0
    for round_ in range(1, ledger.next_round()):
        asked = ledger.round_of(round_)
        climbers = []
        for a in asked:
            d = closed[a.number].document
            low = d if closed[a.number].status == "dropped" else d["rungs"][0]
            score = sum(value for (value,) in low["scores"].values()) / 2
            climbers.append(Climber(a.number, (score, d["measurement"]["median_ms"])))
        going = promoted(climbers, ["maximize", "minimize"], Fraction(1, 3))
        assert {a.number for a in asked if closed[a.number].status == "done"} == set(going)
        n_judged += 1
    ledger.close()
    assert n_judged >= 2


def test_a_dropped_candidate_is_on_no_front_and_its_scores_are_its_rung_s(tmp_path: Path) -> None:
    result = run(tmp_path)
    dropped = [row for row in result.rows if row.status == "dropped"]
    assert dropped
    for row in dropped:
        assert not row.on_front
        assert row.rank is None
        assert not row.objectives
        assert row.scores, "what it reached at its rung is kept"
        assert (row.rung, row.cost) == ("steps 1/9", pytest.approx(1 / 9))
        assert row.reason == "not among the best 1/3 at steps 1/9"
    assert all(row.rung == "full" for row in result.trained)


def test_trials_are_paid_by_what_they_cost(tmp_path: Path) -> None:
    result = run(tmp_path)
    trials = trials_in(tmp_path)
    own = [t for t in trials if t.document.get("baseline") is None]
    n_done = sum(t.status == "done" for t in own)
    n_dropped = sum(t.status == "dropped" for t in own)
    assert spent(trials) == n_done + Fraction(n_dropped, 9)
    assert 18 <= spent(trials) <= 20, "20 trainings' worth"
    assert n_done + n_dropped > 20
    assert f"{n_done} candidates trained, {n_dropped} dropped" in result.stopped
    assert result.hypervolume[-1].n_trained == pytest.approx(float(spent(trials)) + 1), "and one baseline"
    seconds = sum(row.seconds for row in result.rows)
    assert seconds == pytest.approx(float(spent(trials) + 1)), "a run that goes on is not paid twice"


def test_a_candidate_goes_on_with_the_weights_that_it_has(tmp_path: Path) -> None:
    """One job for each rung, the lower one first, and only dropped candidates are discarded."""
    executor = InlineExecutor(break_=on_rungs)
    study = make_study(**STUDY)
    table = RungTable(study.fidelity)
    run(tmp_path, executor=executor, table=table)
    steps: dict[str, list[str]] = {}
    for job in executor.jobs:
        if job.do == "train":
            steps.setdefault(job.payload["directory"], []).append(job.payload["steps"])
    assert {tuple(found) for found in steps.values()} == {("1/9",), ("1/9", "1")}
    dropped = {t.spec for t in trials_in(tmp_path) if t.status == "dropped"}
    assert set(table.discarded) == dropped


@pytest.mark.parametrize("proxy", ["noise", "size"])
def test_a_rung_that_tells_nothing_is_not_used_and_the_report_says_so(tmp_path: Path, proxy: str) -> None:
    result = run(tmp_path, proxy=proxy)
    assert result.proxy is not None
    assert result.proxy.used == ()
    assert "it is not used" in result.proxy.sentence
    trials = trials_in(tmp_path)
    assert not any(t.status == "dropped" for t in trials)
    later = climbing(trials)
    assert len(later) == 12
    assert {t.document["rung"] for t in later} == {"full"}
    assert all("rungs" not in t.document for t in later), "the lower rung is skipped: nothing depends on it"
    assert spent(trials) == 20


def test_without_an_audit_the_rungs_are_used_untested(tmp_path: Path) -> None:
    result = run(tmp_path, proxy="noise", fidelity={"rungs": ["1/9", "full"], "audit": 0})
    assert result.proxy is None
    assert any(row.status == "dropped" for row in result.rows)


def test_an_audit_that_cannot_be_paid_is_none_and_no_rung_is_used(tmp_path: Path) -> None:
    result = run(tmp_path, trials=5)
    assert result.proxy is None
    assert {row.status for row in result.rows} <= {"done", "duplicate", "refused"}
    assert len(result.trained) == 6


def test_three_rungs_each_let_a_part_on(tmp_path: Path) -> None:
    ladder = {"rungs": ["1/9", "1/3", "full"], "promote": "1/2", "audit": 8}
    result = run(tmp_path, fidelity=ladder, batch=8, trials=30)
    assert Counter(row.rung for row in result.rows if row.status == "dropped").keys() == {
        "steps 1/9",
        "steps 1/3",
    }
    trials = trials_in(tmp_path)
    costs = {"done": Fraction(1), "steps 1/9": Fraction(1, 9), "steps 1/3": Fraction(1, 3)}
    own = [t for t in trials if t.status in ("done", "dropped") and t.document.get("baseline") is None]
    for t in own:
        assert Fraction(t.document["cost"]) == costs["done" if t.status == "done" else t.document["rung"]]
    assert spent(trials) <= 30


def test_only_the_rung_that_passed_its_audit_drops_anybody(tmp_path: Path) -> None:
    ladder = {"rungs": ["1/9", "1/3", "full"], "promote": "1/2", "audit": 8}
    result = run(tmp_path, fidelity=ladder, batch=8, trials=24, proxy="late")
    assert result.proxy is not None
    assert result.proxy.used == ("steps 1/3",)
    assert {row.rung for row in result.rows if row.status == "dropped"} == {"steps 1/3"}
    assert spent(trials_in(tmp_path)) <= 24


def test_a_baseline_among_better_candidates_still_climbs_every_rung(tmp_path: Path) -> None:
    """One that joins later, in a round where others are dropped; it takes nobody's place either."""
    run(tmp_path)
    poor = {"first": "pool", "second": "pool", "width": 7, "dead": 0}
    study = make_study(**STUDY | {"trials": 30})
    table = RungTable(study.fidelity, baselines={"poor": poor})
    result = run(tmp_path, table=table, trials=30)
    row = next(row for row in result.rows if row.baseline == "poor" and row.status != "duplicate")
    assert row.status == "done"
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    (round_,) = {
        a.round for n in range(ledger.next_round()) for a in ledger.round_of(n) if a.baseline == "poor"
    }
    asked = [a.number for a in ledger.round_of(round_) if a.baseline is None]
    ledger.close()
    done = {row.trial for row in result.rows if row.status == "done"}
    assert len(done & set(asked)) == -(-len(asked) // 3)


def test_what_fails_at_a_rung_or_shows_nan_does_not_go_on(tmp_path: Path) -> None:
    def break_(job: Job) -> Completion:
        done = on_rungs(job)
        if job.do == "train" and job.payload["genes"]["width"] == 3:
            return Completion(job, "done", {**(done.result or {}), "status": "diverged", "reason": "nan"})
        return done

    executor = InlineExecutor(break_=break_)
    ladder = {"rungs": ["1/9", "full"], "audit": 16}
    result = run(tmp_path, executor=executor, trials=40, fidelity=ladder)
    failed = [row for row in result.rows if row.status == "failed" and row.baseline is None]
    assert failed
    assert {row.rung for row in failed} == {"steps 1/9"}
    assert all(row.cost == pytest.approx(1 / 9) for row in failed)
    tops = [job for job in executor.jobs if job.do == "train" and job.payload["steps"] == "1"]
    assert not any(job.payload["genes"]["width"] == 3 for job in tops)


def told(out: Path) -> dict[int, tuple[str, str, Any]]:
    return {t.number: (t.spec, t.status, t.document) for t in trials_in(out)}


class _Stop(Exception):
    """The end of a driver, as sudden as a test in one process can make it."""


def test_a_search_that_ends_at_any_job_goes_on_to_the_same_ledger(tmp_path: Path) -> None:
    whole = InlineExecutor(break_=on_rungs)
    run(tmp_path / "whole", executor=whole)
    wanted = told(tmp_path / "whole")
    n_jobs = len(whole.jobs)
    for stop in range(1, n_jobs, n_jobs // 6):
        out = tmp_path / str(stop)
        done = 0

        def break_(job: Job, stop: int = stop) -> Completion:
            nonlocal done
            done += 1
            if done == stop:
                raise _Stop
            return on_rungs(job)

        with pytest.raises(_Stop):
            run(out, executor=InlineExecutor(break_=break_))
        rest = InlineExecutor(break_=on_rungs)
        run(out, executor=rest)
        assert told(out) == wanted
        assert stop - 1 + len(rest.jobs) == n_jobs, "nothing is run twice"


def test_a_search_that_ends_at_any_row_goes_on_to_the_same_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the decisions of one rung, too: half of the losers are in the ledger, half are not."""
    run(tmp_path / "whole")
    wanted = told(tmp_path / "whole")
    add_trial = Ledger.add_trial
    for stop in range(1, len(wanted), 7):
        out = tmp_path / str(stop)
        n_rows = 0

        def add(self: Ledger, trial: Trial, *, study: str, stop: int = stop) -> None:
            nonlocal n_rows
            n_rows += 1
            if n_rows == stop:
                raise _Stop
            add_trial(self, trial, study=study)

        monkeypatch.setattr(Ledger, "add_trial", add)
        with contextlib.suppress(_Stop):
            run(out)
        monkeypatch.setattr(Ledger, "add_trial", add_trial)
        run(out)
        assert told(out) == wanted


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_driver_that_is_killed_between_rungs_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [sys.executable, str(SCRIPT), "drive", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}

    def lines() -> list[str]:
        log = out / "begun.log"
        return log.read_text().splitlines() if log.exists() else []

    process = subprocess.Popen([*argv, "0.03"], stdout=subprocess.DEVNULL, env=environment)
    try:
        until(lambda: len(lines()) > 45)  # past the audit, among those that climb
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    ledger = Ledger(out / FILE_NAME, writable=False)
    recorded = {(key.spec, key.subject, key.fidelity) for key, _ in ledger.all_evidence("training")}
    ledger.close()
    subprocess.run([*argv, "0.0"], stdout=subprocess.DEVNULL, env=environment, check=True, timeout=90)
    run(tmp_path / "whole")
    ours, whole = told(out), told(tmp_path / "whole")
    assert ours == whole, "as if it had never been killed"
    begun = Counter(lines())
    twice = sum(n - 1 for n in begun.values())
    assert twice <= 2, "at most what two workers were at"
    assert len(recorded) > 20
    assert load_result(out).complete


def test_other_rungs_in_the_same_folder_are_refused_where_the_evaluator_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="only be evaluated in full"):
        search(
            make_study(**STUDY),
            TableEvaluator(),
            tmp_path,
            make_executor=lambda folder: InlineExecutor(break_=on_rungs),
        )


def test_what_was_dropped_is_not_proposed_again_and_teaches_nobody_a_full_score(tmp_path: Path) -> None:
    study = make_study(**STUDY)
    table = RungTable(study.fidelity)
    run(tmp_path, table=table, proposer="evolution", trials=40)
    specs = Counter(t.spec for t in trials_in(tmp_path) if t.status in ("done", "dropped", "failed"))
    assert set(specs.values()) == {1}


def test_the_report_shows_what_the_audit_says_of_each_rung(tmp_path: Path) -> None:
    result = run(tmp_path)
    page = render(result)
    n_dropped = sum(row.status == "dropped" for row in result.rows)
    assert f"{n_dropped} candidates were dropped below the top rung" in page
    assert "&#39;steps 1/9&#39; ranks score with Spearman" in page
    assert "beats size in" in page
    for name in ("steps 1/9", "params", "flops"):
        assert f"<td>{name}</td>" in page
    whole = search(
        make_study(),
        TableEvaluator(),
        tmp_path / "plain",
        make_executor=lambda folder: InlineExecutor(),
    )
    assert "May a lower rung decide?" not in render(whole)
