"""What a finished search can be asked: other budgets, who is ahead, how sure it is, what mattered, its events."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.commands._search_events import event_lines
from archspec.commands._search_progress import Progress
from archspec.errors import SpecError
from search.confidence import interval, membership
from search.driver import Event, search
from search.equal_budget import compared, rivals
from search.front import Row, SearchResult
from search.importance import N_LEAST, importances
from search.other_budgets import resolve_under
from search.solve import load_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search")
    study = make_study(trials=30, aggregate="min", search_baselines=["random"])
    with event_lines(str(out / "events.jsonl")) as tell:
        search(study, TableEvaluator(), out, make_executor=lambda path: InlineExecutor(), listen=tell)
    return out


@pytest.fixture
def result(folder: Path) -> SearchResult:
    return load_result(folder)


def test_under_another_budget_members_come_and_go_and_nothing_runs(
    folder: Path, result: SearchResult
) -> None:
    before = (folder / "ledger.sqlite").read_bytes()
    moves = resolve_under(folder, ["latency_ms<=3"])
    assert all(row.objectives["latency_ms"] <= 3 for row in moves.result.front)
    assert set(moves.left) == {r.trial for r in result.front if r.objectives["latency_ms"] > 3} != set()
    assert moves.entered == ()
    assert moves.unseen == ()
    assert (folder / "ledger.sqlite").read_bytes() == before


def test_a_wider_budget_says_who_was_never_trained(folder: Path, result: SearchResult) -> None:
    moves = resolve_under(folder, ["params=none"])
    (limit,) = result.budgets
    assert limit.n_refused > 0
    assert moves.unseen[0].startswith(f"{limit.n_refused} candidates that params <= 900 turned away")
    assert resolve_under(folder, ["params<=900"]).unseen == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [("params", "a budget is"), ("paramz<=3", "unknown quantity 'paramz'"), ("params<=3 ms", "no unit 'ms'")],
)
def test_what_is_no_budget_is_refused_in_words(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolve_under(folder, [text])


def test_random_search_and_the_mixtures_are_there_or_missed(result: SearchResult) -> None:
    found = {rival.name: rival for rival in rivals(result)}
    assert found["random search"].n == 30
    assert found["random search"].hypervolume == result.hypervolume_random[-1].value
    assert [row.baseline for row in found["all attention"].rows] == ["all_attention"]
    assert found["1 attention to 3 state space"].missing
    assert "With 30 candidates each, the search" in compared(result)
    assert not compared(replace(result, hypervolume_random=()))


def seeded(row: Row, *values: float) -> Row:
    return replace(row, seed_scores={"copy": values, "parity": values})


def test_two_that_differ_by_less_than_their_seeds_share_the_front(result: SearchResult) -> None:
    sure, rival = result.front[0], result.front[1]
    mine = sure.objectives["score"]
    close = replace(rival, objectives={"score": mine - 0.001, "latency_ms": sure.objectives["latency_ms"]})
    rows = (
        seeded(sure, mine - 0.1, mine, mine + 0.1),
        replace(seeded(close, mine - 0.1, mine - 0.001, mine + 0.1), measured=sure.measured),
    )
    found = membership(replace(result, rows=rows))
    assert all(0.2 < share < 0.9 for share in found.values())
    exact = tuple(replace(row, measured={}) for row in (seeded(rows[0], mine, mine), rows[1]))
    far = replace(exact[1], seed_scores={"copy": (0.1, 0.1), "parity": (0.1, 0.1)})
    assert membership(replace(result, rows=(exact[0], far))) == {sure.trial: 1.0, rival.trial: 0.0}
    low, high = interval(rows[0], "score", result) or (0.0, 0.0)
    assert low < mine < high <= 1.0


def test_one_seed_says_nothing_of_itself(result: SearchResult) -> None:
    assert membership(result) == {}
    assert interval(result.front[0], "score", result) is None


def test_the_gene_that_decides_matters_most(result: SearchResult) -> None:
    rng = random.Random(0)
    genes = [{"width": rng.randint(1, 8), "idle": rng.randint(0, 1)} for _ in range(60)]
    pattern = result.front[0]
    rows = tuple(
        replace(
            pattern, trial=i, genes=g, objectives={"score": g["width"] / 8, "latency_ms": 9.0 - g["width"]}
        )
        for i, g in enumerate(genes)
    )
    for found in importances(replace(result, rows=rows)):
        assert next(iter(found.shares)) == "width"
        assert found.shares["width"] > 0.9
        assert found.n_trials == 60
    assert importances(replace(result, rows=rows[: N_LEAST - 1])) == ()


def test_every_event_is_a_line_with_the_same_keys(folder: Path, result: SearchResult) -> None:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert all({"event", "text", "n_trained", "n_wanted"} <= line.keys() for line in lines)
    trials = {line["trial"]["trial"]: line["trial"] for line in lines if line["event"] == "trial"}
    assert trials.keys() == {row.trial for row in result.rows}
    assert all(trials[row.trial]["figures"]["score"] == row.objectives["score"] for row in result.trained)
    assert lines[-1]["event"] == "closed"
    assert {row["trial"] for row in lines[-1]["front"]} == {row.trial for row in result.front}


def test_the_live_view_solves_the_front_once_a_second_at_most(folder: Path, result: SearchResult) -> None:
    from search.ledger import FILE_NAME, Ledger

    ledger = Ledger(folder / FILE_NAME, writable=False)
    trial = next(trial for trial in ledger.trials() if trial.status == "done")
    ledger.close()
    solved, now = [], [0.0]

    def solve() -> SearchResult:
        solved.append(now[0])
        return result

    with (folder / "screen.txt").open("w") as screen:
        console = Console(file=screen, force_terminal=True)
        with Progress(console, clock=lambda: now[0]) as progress:
            for _ in range(50):
                progress.hear(Event("trial", "", 1, 30, trial, result=solve))
                now[0] += 0.1
    assert len(solved) == 5


def test_a_warning_does_not_make_progress_forget_what_is_trained() -> None:
    with Progress(Console(file=io.StringIO())) as progress:
        progress.hear(Event("round", "", 3, 30))
        progress.hear(Event("warning", "the mirror is gone"))
    assert progress.n_trained == 3
