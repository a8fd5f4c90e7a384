"""PostgreSQL under a running search: restarted, killed, shared by drivers in processes of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from faults import assert_whole, begun, driver, left_over, recorded, run, trials, until
from faulty_drive import Options
from postgres_server import PostgresServer, running_server

from search.solve import load_result


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.make_database()


def test_a_server_restarted_under_load(server: PostgresServer, url: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with driver(out, Options(trials=16, sleep=0.1, storage=url)) as process:
        for n, halt in ((2, server.stop), (6, server.crash), (10, server.stop)):
            until(lambda n=n: len(trials(out)) >= n)  # type: ignore[misc]
            halt()
            time.sleep(0.3)
            server.start()
        text, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    assert "Traceback" not in error
    assert text.count("does not answer; waiting up to 60 s") >= 1
    assert text.count(" answers again") >= 1
    assert_whole(out, n_trials=16).close()
    assert all(n == 1 for n in begun(out).values()), "a training was done twice"
    assert not any(row.status == "failed" for row in load_result(out).rows)
    with psycopg.connect(url) as connection:
        ((n_mirrored,),) = connection.execute("SELECT COUNT(*) FROM public.trials").fetchall()
    assert n_mirrored == sum(trial.status != "duplicate" for trial in trials(out))


def test_two_drivers_of_one_search_from_two_folders(url: str, tmp_path: Path) -> None:
    with driver(tmp_path / "one", Options(trials=30, sleep=0.3, storage=url)) as first:
        until(lambda: bool(begun(tmp_path / "one")))
        code, _, error = run(tmp_path / "two", Options(trials=30, storage=url))
        assert code == 1
        assert f"is being searched by another driver (process {first.pid} on " in error
        assert first.poll() is None
        first.kill()
        first.wait()
        until(lambda: not left_over(tmp_path / "one"))
    known = recorded(tmp_path / "one")
    assert run(tmp_path / "two", Options(trials=30, storage=url))[0] == 0
    assert not known & set(begun(tmp_path / "two")), "another machine goes on where the first one died"
    assert_whole(tmp_path / "two", n_trials=30).close()


def test_two_searches_at_once_on_one_server(url: str, tmp_path: Path) -> None:
    outs = [tmp_path / str(seed) for seed in (0, 1)]
    one, two = (Options(trials=40, sleep=0.02, seed=seed, storage=url) for seed in (0, 1))
    with driver(outs[0], one) as first, driver(outs[1], two) as second:
        for process in (first, second):
            _, error = process.communicate(timeout=60)
            assert process.returncode == 0, error
    for out in outs:
        assert_whole(out, n_trials=40).close()
    n_begun = begun(outs[0]) + begun(outs[1])
    n_trained = sum(trial.status == "done" for out in outs for trial in trials(out))
    assert sum(n_begun.values()) < 2 * n_trained, "no result was shared"
    with psycopg.connect(url) as connection:
        ((n_shared,),) = connection.execute(
            "SELECT COUNT(*) FROM archspec.evidence WHERE kind = 'training'"
        ).fetchall()
    assert n_shared == len(n_begun), "every training once, whoever did it"
