"""The ledger on a real PostgreSQL server: the same promises as the file's, shared evidence, clear messages."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import psycopg
import pytest
from optuna.storages import RDBStorage
from postgres_server import PostgresServer, running_server
from sqlalchemy.engine import make_url
from table_study import InlineExecutor, TableEvaluator, make_study

from archspec.errors import SpecError
from search.driver import search
from search.folder import open_folder, read_ledger
from search.front import SearchResult
from search.ledger import Asked, EvidenceKey, Ledger, Trial
from search.ledgers.postgres import PostgresDatabase
from search.solve import load_result
from search.storage import parse_storage

KEY = EvidenceKey("training", "a" * 64, "task", "recipe", "full", 2**40, "v1")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.make_database()


def open_ledger(url: str, search: str = "one", **options: float | bool) -> Ledger:
    return Ledger(PostgresDatabase(parse_storage(url), search, **options))  # type: ignore[arg-type]


def trial(number: int, status: str = "done") -> Trial:
    return Trial(number, "a" * 64, status, {"reason": "a \x00 in it", "genes": {"b": 1, "a": 2}})


def run(url: str, out: Path, *, trials: int = 6, seed: int = 0) -> SearchResult:
    evaluator = TableEvaluator(space=f"space {seed}")
    study = make_study(trials=trials, seed=seed)
    return search(study, evaluator, out, make_executor=lambda folder: InlineExecutor(), storage=url)


def test_what_is_recorded_is_read_again(url: str) -> None:
    ledger = open_ledger(url)
    asked = [Asked(n, 0, f"{n}", None, {}) for n in (0, 2)]
    ledger.add_round(asked, [trial(1, "refused")], study="s")
    ledger.add_run({"event": "start"})
    ledger.add_death("spec", "job", "half a pair \ud800")
    ledger.bind({"space": "one"}, explain={})
    ledger.close()
    again = open_ledger(url)
    assert again.pending() == asked
    assert again.trials() == [trial(1, "refused")]
    assert list(again.trials()[0].document["genes"]) == ["b", "a"]
    assert (again.next_number(), again.next_round()) == (3, 1)
    assert (again.refused("s"), again.refused("t")) == ({"a" * 64}, set())
    assert again.runs() == [{"event": "start"}]
    assert (again.deaths("spec"), again.deaths("other")) == (1, 0)
    with pytest.raises(SpecError, match="holds a search with another space"):
        again.bind({"space": "two"}, explain={"space": "another space"})
    again.close()


def test_evidence_is_found_by_every_part_of_its_key_and_the_first_stays(url: str) -> None:
    ledger = open_ledger(url)
    assert ledger.add_evidence(KEY, {"score": 1.0}) == {"score": 1.0}
    assert ledger.add_evidence(KEY, {"score": 2.0}) == {"score": 1.0}
    assert ledger.evidence(KEY) == {"score": 1.0}
    for field in fields(KEY):
        other = 7 if field.name == "seed" else "final" if field.name == "kind" else "other"
        assert ledger.evidence(replace(KEY, **{field.name: other})) is None, field.name
    ledger.close()


def test_evidence_answers_every_search_and_is_listed_by_those_that_used_it(url: str) -> None:
    one, two = open_ledger(url, "one"), open_ledger(url, "two")
    one.add_evidence(KEY, {"score": 1.0})
    assert two.all_evidence("training") == []
    assert two.evidence(KEY) == {"score": 1.0}
    assert two.add_evidence(KEY, {"score": 2.0}) == {"score": 1.0}
    assert two.all_evidence("training") == [(KEY, {"score": 1.0})]
    other = replace(KEY, seed=1)
    two.add_evidence(other, {"score": 3.0})
    two.add_trial(trial(0), study="s")
    assert one.all_evidence("training") == [(KEY, {"score": 1.0})]
    assert one.trials() == []
    one.close()
    two.close()


def test_a_round_is_recorded_whole_or_not_at_all(url: str) -> None:
    ledger = open_ledger(url)
    ledger.add_trial(trial(1), study="s")
    with pytest.raises(psycopg.IntegrityError):
        ledger.add_round([Asked(0, 0, "x", None, {})], [trial(1)], study="s")
    assert ledger.pending() == []
    ledger.close()


def test_rows_can_be_neither_changed_nor_deleted(url: str) -> None:
    ledger = open_ledger(url)
    ledger.add_evidence(KEY, {"score": 1.0})
    ledger.add_trial(trial(0), study="s")
    ledger.close()
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname LIKE 'archspec%'"
        ).fetchall()
        assert len(found) == 3 + 8
        for (table,) in found:
            for verb in (f"DELETE FROM {table}", f"TRUNCATE {table}"):  # noqa: S608
                with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                    connection.execute(verb)
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute("UPDATE archspec.evidence SET document = '{}'")


def test_a_second_driver_refuses_and_names_the_first(url: str) -> None:
    first = open_ledger(url)
    with pytest.raises(SpecError, match=rf"searched by another driver \(process {os.getpid()} on ") as caught:
        open_ledger(url)
    assert "--seed" in str(caught.value)
    reader = open_ledger(url, writable=False)
    assert reader.trials() == []
    first.close()
    reader.close()
    open_ledger(url).close()


def test_a_newer_ledger_is_refused(url: str) -> None:
    open_ledger(url).close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO archspec.versions VALUES (99)")
    for writable in (True, False):
        with pytest.raises(SpecError, match=r"written by a newer archspec \(ledger 99, this one reads 1\)"):
            open_ledger(url, writable=writable)


def test_many_drivers_may_make_the_tables_at_once(url: str) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            open_ledger(url, name).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"search {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://me:secret@127.0.0.1:1/db",
        "postgresql://me:secret@127.0.0.1:1/db?password=secret",
        "postgresql+psycopg://me:secret@/db?host=/nowhere/secret",
    ],
)
def test_a_server_that_is_not_there_is_one_clear_message_without_the_password(
    tmp_path: Path, bad: str
) -> None:
    with pytest.raises(SpecError, match="cannot be used") as caught, open_folder(tmp_path, storage=bad):
        pass
    assert len(caught.value.problems) == 1
    assert "PGPASSWORD" in str(caught.value)
    assert "me:secret" not in str(caught.value)
    assert "=secret" not in str(caught.value)
    assert not (tmp_path / "storage.json").exists()


def test_a_database_that_is_not_there_is_one_clear_message(url: str, tmp_path: Path) -> None:
    other = make_url(url).set(database="nothing").render_as_string(hide_password=False)
    with pytest.raises(SpecError, match="does not exist"), open_folder(tmp_path, storage=other):
        pass


def test_without_the_library_the_extra_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(SpecError, match="psycopg") as caught:
        open_ledger(url)
    assert "archspec-compiler[postgres]" in str(caught.value)


def test_a_search_on_a_server_finds_what_one_in_a_file_finds(url: str, tmp_path: Path) -> None:
    there = run(url, tmp_path / "there")
    evaluator = TableEvaluator(space="space 0")
    here = search(
        make_study(trials=6), evaluator, tmp_path / "here", make_executor=lambda f: InlineExecutor()
    )
    assert [(r.trial, r.hash, r.status, r.on_front) for r in there.rows] == [
        (r.trial, r.hash, r.status, r.on_front) for r in here.rows
    ]
    assert not (tmp_path / "there" / "ledger.sqlite").exists()
    assert [r.hash for r in load_result(tmp_path / "there").rows] == [r.hash for r in there.rows]
    storage = RDBStorage(parse_storage(url).for_optuna)
    (study,) = storage.get_all_studies()
    n_trials = storage.get_n_trials(study._study_id)
    storage.remove_session()
    storage.engine.dispose()
    assert n_trials == len([row for row in there.rows if row.status != "duplicate"])


def test_a_folder_goes_on_with_its_search_without_being_told_where_it_is(url: str, tmp_path: Path) -> None:
    run(url, tmp_path, trials=3)
    result = search(
        make_study(trials=5),
        TableEvaluator(space="space 0"),
        tmp_path,
        make_executor=lambda f: InlineExecutor(),
    )
    assert sum(row.baseline is None for row in result.trained) == 5
    assert not (tmp_path / "ledger.sqlite").exists()


def test_another_folder_goes_on_with_the_same_search(url: str, tmp_path: Path) -> None:
    first = run(url, tmp_path / "lost", trials=4)
    again = run(url, tmp_path / "new", trials=4)
    assert [row.hash for row in again.rows] == [row.hash for row in first.rows]


def test_a_folder_with_a_file_is_not_searched_on_a_server(url: str, tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    with pytest.raises(SpecError, match="whose ledger is a file"):
        run(url, tmp_path)


def test_a_server_that_lacks_the_folder_s_search_is_refused(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    run(url, tmp_path, trials=2)
    with pytest.raises(SpecError, match="there is no search at"):
        run(server.make_database(), tmp_path)


def test_the_folder_keeps_no_password(url: str, tmp_path: Path) -> None:
    with_password = make_url(url).set(password="s3cret").render_as_string(hide_password=False)  # noqa: S106
    run(with_password, tmp_path, trials=2)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"s3cret" not in path.read_bytes(), path.name
    ledger = read_ledger(tmp_path)
    assert "s3cret" not in ledger.where
    ledger.close()


def test_two_seeds_share_a_server_and_what_they_have_in_common(url: str, tmp_path: Path) -> None:
    executors = [InlineExecutor(), InlineExecutor()]
    for seed, executor in enumerate(executors):
        search(
            make_study(trials=60, seed=seed, budgets={}),
            TableEvaluator(space=f"space {seed}"),
            tmp_path / str(seed),
            make_executor=lambda folder, executor=executor: executor,  # type: ignore[misc]
            storage=url,
        )
    done = [
        {(job.do, job.label, repr(job.payload)) for job in e.jobs if job.do == "train"} for e in executors
    ]
    assert len(done[0]) > 100
    assert not done[0] & done[1], "a training that the first one did is not done again"
    results = [load_result(tmp_path / str(seed)) for seed in (0, 1)]
    assert all(len(result.trained) >= 60 for result in results)


def test_a_writer_waits_for_a_server_that_comes_back(server: PostgresServer, url: str) -> None:
    said: list[str] = []
    ledger = Ledger(PostgresDatabase(parse_storage(url), "one", tell=said.append))
    ledger.add_trial(trial(0), study="s")
    server.stop()
    starter = threading.Timer(0.5, server.start)
    starter.start()
    ledger.add_trial(trial(1), study="s")
    starter.join()
    assert [t.number for t in ledger.trials()] == [0, 1]
    assert len(said) == 2
    assert "does not answer" in said[0]
    assert "answers again" in said[1]
    with pytest.raises(SpecError, match="another driver"):
        open_ledger(url)
    ledger.close()


def test_a_server_that_stays_away_ends_the_wait_with_a_clear_message(
    server: PostgresServer, url: str
) -> None:
    ledger = open_ledger(url, patience_s=0.5)
    server.stop()
    try:
        with pytest.raises(SpecError, match="has not answered for 0 s") as caught:
            ledger.add_trial(trial(0), study="s")
        assert "what is finished is safe" in str(caught.value)
    finally:
        server.start()
    assert ledger.trials() == []
    ledger.close()


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
def test_a_commit_that_was_not_heard_of_is_asked_for_before_it_is_repeated(
    url: str, is_committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks at the commit: after the server has done it, or before."""
    database = PostgresDatabase(parse_storage(url), "one")
    ledger = Ledger(database)
    leave = psycopg.Transaction.__exit__
    broken: list[int] = []

    def breaking(self: psycopg.Transaction, *error: object) -> bool:
        connection = self.connection
        if broken:
            return bool(leave(self, *error))  # type: ignore[arg-type]
        broken.append(1)
        if is_committed:
            leave(self, *error)  # type: ignore[arg-type]
        connection.pgconn.finish()
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(psycopg.Transaction, "__exit__", breaking)
    ledger.add_run({"event": "start"})
    assert broken
    assert ledger.runs() == [{"event": "start"}]
    ledger.close()


def test_a_search_that_another_driver_took_over_is_left_to_it(server: PostgresServer, url: str) -> None:
    first = open_ledger(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'archspec%'"
        )
    time.sleep(0.1)
    second = open_ledger(url)
    with pytest.raises(SpecError, match="searched by another driver"):
        first.add_trial(trial(0), study="s")
    second.add_trial(trial(0), study="s")
    second.close()
    with pytest.raises(SpecError, match="another driver took over"):
        first.add_trial(trial(1), study="s")
    first.close()
