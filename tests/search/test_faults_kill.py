"""SIGKILL to workers and drivers of a running search: nothing lost, nothing twice, nothing left running."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from faults import assert_whole, begun, driver, left_over, recorded, run, trials, until, workers_of
from faulty_drive import Options


@pytest.mark.parametrize("seed", [0, 1])
def test_workers_killed_at_random_times(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "out"
    rng = random.Random(seed)
    n_killed = 0
    with driver(out, Options(trials=16, sleep=0.05)) as process:
        until(lambda: bool(begun(out)))
        while process.poll() is None:
            time.sleep(rng.uniform(0.0, 0.25))
            if workers := workers_of(process):
                n_killed += 1
                victim = rng.choice(workers)
                try:
                    victim.kill()
                except psutil.NoSuchProcess:
                    n_killed -= 1
        assert process.returncode == 0, process.communicate()[1]
    assert n_killed >= 4, "how many depends on how fast the machine is"
    ledger = assert_whole(out, n_trials=16)
    n_begun = begun(out)
    n_deaths = 0
    for trial in ledger.trials():
        if trial.status not in ("done", "failed"):
            continue
        deaths = ledger.deaths(trial.spec)
        n_deaths += deaths
        genes = trial.document["genes"]
        for task in ("copy", "parity"):
            text = f"{task} {genes['first']} {genes['second']} {genes['width']}"
            assert n_begun[text] <= 1 + deaths, "begun again though no worker died"
        if trial.status == "failed":
            assert deaths in (2, 3), "its other task may have been running"
            assert trial.document["reason"].startswith(
                "poisoned: 2 workers died on it: its worker was killed"
            )
    assert 1 <= n_deaths <= n_killed
    ledger.close()


def test_a_driver_killed_between_submit_and_record_at_every_place(tmp_path: Path) -> None:
    out = tmp_path / "out"
    known: set[str] = set()
    for die in (
        ("before", "add_evidence", 6),  # the result is computed and nobody has put it down
        ("after", "add_evidence", 7),  # it is put down, its trial is not
        ("before", "add_trial", 2),
        ("before", "add_round", 1),
    ):
        before = begun(out)
        code, _, _ = run(out, Options(trials=10, sleep=0.02, die=die))
        assert code == -signal.SIGKILL, die
        again = begun(out) - before
        assert not known & set(again), "a result that was recorded has been computed again"
        known = recorded(out)
    before = begun(out)
    assert run(out, Options(trials=10))[0] == 0
    assert not known & set(begun(out) - before)
    assert_whole(out, n_trials=10).close()


def test_a_driver_killed_at_random_times(tmp_path: Path) -> None:
    out = tmp_path / "out"
    rng = random.Random(3)
    known: set[str] = set()
    done: set[int] = set()
    for _ in range(3):
        with driver(out, Options(trials=14, sleep=0.1)) as process:
            n = sum(begun(out).values())
            until(lambda n=n: sum(begun(out).values()) > n + 2)  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, 0.5))
            process.kill()
            process.wait()
            until(lambda: not left_over(out))
        known, done = recorded(out), {trial.number for trial in trials(out)}
    before = begun(out)
    assert run(out, Options(trials=14))[0] == 0
    assert not known & set(begun(out) - before)
    ledger = assert_whole(out, n_trials=14)
    assert done <= {trial.number for trial in ledger.trials()}
    ledger.close()


def test_a_time_limit_ends_everything_that_hangs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Options(trials=10, sleep=300.0, timeout_s=2.0, job_timeout_s=600.0)
    code, text, _ = run(out, options)
    assert code == 0
    assert "closed time limit" in text
    assert sum(begun(out).values()) == 2, "nothing is begun when the time is up"
    assert trials(out) == []
