"""Trials that go wrong in every way end as what they are, each alone; the search goes on."""

from __future__ import annotations

from pathlib import Path

from faults import assert_whole, begun, run
from faulty_drive import Options

from search.solve import load_result

FAULTS = {"1": "nan", "2": "diverge", "3": "hog", "4": "hang", "5": "segfault", "6": "raise"}
REASONS = {
    1: "a result that is no JSON",
    2: "diverged on copy: the loss is not finite at step 7",
    3: "MiB of memory; its limit is 256 MiB (copy)",
    4: "stopped after 4 s (copy)",
    5: "poisoned: 2 workers died on it: its worker was killed by SIGSEGV",
    6: "RuntimeError: shapes (3,) and (4,) do not match (copy)",
}


def test_every_fault_is_a_status_with_its_reason(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = Options(trials=24, job_timeout_s=4.0, memory=256 << 20, faults=FAULTS)
    code, _, error = run(out, options)
    assert code == 0, error
    ledger = assert_whole(out, n_trials=24)
    seen = set()
    for trial in ledger.trials():
        if trial.status not in ("done", "failed"):
            continue
        width = trial.document["genes"]["width"]
        seen.add(width)
        if width in REASONS:
            assert trial.status == "failed", width
            reason = trial.document["reason"].replace("parity", "copy")
            assert REASONS[width] in reason, (width, reason)
        else:
            assert (trial.status, trial.document["reason"]) == ("done", "")
        deaths = ledger.deaths(trial.spec)
        assert deaths in ((2, 3) if width == 5 else (0,)), "its other task may have been running"
    assert seen >= set(REASONS), "the seed shows every fault"
    ledger.close()
    result = load_result(out)
    assert result.complete
    assert {row.genes["width"] for row in result.front} <= {7, 8}
    assert sum(result.failures.values()) == sum(row.status == "failed" for row in result.rows)


def test_what_went_wrong_is_not_tried_again_by_the_next_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    faults = {"5": "segfault", "6": "raise", "2": "diverge"}
    assert run(out, Options(trials=6, faults=faults))[0] == 0
    before = begun(out)
    assert run(out, Options(trials=6, faults=faults))[0] == 0
    assert begun(out) == before
    assert_whole(out, n_trials=6).close()
