"""The ledger: keyed, append-only, whole after a kill, and clear about a file that it cannot use."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
from dataclasses import fields, replace
from pathlib import Path

import pytest

from archspec.errors import SpecError
from search.folder import open_folder, write_whole
from search.ledger import FILE_NAME, Asked, EvidenceKey, Ledger, Trial
from search.lock import FolderLock

KEY = EvidenceKey("training", "a" * 64, "task", "recipe", "full", 0, "v1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def trial(number: int, status: str = "done") -> Trial:
    return Trial(number, "a" * 64, status, {"reason": "", "genes": {"b": 1, "a": 2}})


def test_evidence_is_found_by_every_part_of_its_key(path: Path) -> None:
    ledger = Ledger(path)
    ledger.add_evidence(KEY, {"score": 1.0})
    assert ledger.evidence(KEY) == {"score": 1.0}
    for field in fields(KEY):
        other = 7 if field.name == "seed" else "final" if field.name == "kind" else "other"
        assert ledger.evidence(replace(KEY, **{field.name: other})) is None, field.name
    ledger.close()


def test_the_first_evidence_of_a_key_stays(path: Path) -> None:
    ledger = Ledger(path)
    ledger.add_evidence(KEY, {"score": 1.0})
    ledger.add_evidence(KEY, {"score": 2.0})
    assert ledger.evidence(KEY) == {"score": 1.0}
    assert len(ledger.all_evidence("training")) == 1
    ledger.close()


def test_what_was_asked_is_pending_until_its_trial_is_over(path: Path) -> None:
    ledger = Ledger(path)
    asked = [Asked(n, 0, f"{n}", None, {}) for n in (0, 2)]
    ledger.add_round(asked, [trial(1, "duplicate")], study="s")
    assert [a.number for a in ledger.pending()] == [0, 2]
    assert (ledger.next_number(), ledger.next_round()) == (3, 1)
    ledger.add_trial(trial(0), study="s")
    ledger.close()
    again = Ledger(path)
    assert again.pending() == [asked[1]]
    assert [t.number for t in again.trials()] == [0, 1]
    again.close()


def test_a_round_is_recorded_whole_or_not_at_all(path: Path) -> None:
    ledger = Ledger(path)
    ledger.add_trial(trial(1), study="s")
    with pytest.raises(sqlite3.IntegrityError):
        ledger.add_round([Asked(0, 0, "x", None, {})], [trial(1)], study="s")
    assert ledger.pending() == []
    ledger.close()


def test_documents_keep_the_order_of_their_keys(path: Path) -> None:
    ledger = Ledger(path)
    ledger.add_trial(trial(0), study="s")
    assert list(ledger.trials()[0].document["genes"]) == ["b", "a"]
    ledger.close()


def test_refusals_belong_to_a_study(path: Path) -> None:
    ledger = Ledger(path)
    ledger.add_trial(trial(0, "refused"), study="tight")
    assert ledger.refused("tight") == {"a" * 64}
    assert ledger.refused("loose") == set()
    ledger.close()


def test_a_result_that_is_no_number_is_never_written(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.add_evidence(KEY, {"score": float("nan")})
    assert ledger.evidence(KEY) is None
    ledger.close()


def _write_until_killed(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(1_000_000):
        ledger.add_trial(trial(number), study="s")


def test_a_killed_writer_leaves_a_whole_ledger(path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_until_killed, args=(path,))
    process.start()
    reader = None
    while reader is None or len(reader.trials()) < 20:
        if path.exists() and reader is None:
            try:
                reader = Ledger(path, writable=False)
            except SpecError:  # not made yet
                continue
    seen = len(reader.trials())
    reader.close()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    ledger = Ledger(path)
    numbers = [t.number for t in ledger.trials()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= seen
    ledger.close()


@pytest.mark.parametrize(
    "content",
    [b"this is no database at all, " * 100, b"SQLite format 3\x00" + b"\xff" * 4_000],
    ids=["text", "header"],
)
def test_a_corrupt_file_is_told_and_not_touched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for writable in (True, False):
        with pytest.raises(SpecError, match="corrupt") as caught:
            Ledger(path, writable=writable)
        assert caught.value.problems[0].hint is not None
    assert path.read_bytes() == content


def test_a_file_that_is_damaged_in_the_middle_is_told(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(500):
        ledger.add_trial(trial(number), study="s")
    ledger.close()
    data = bytearray(path.read_bytes())
    data[8_192:40_000] = os.urandom(40_000 - 8_192)
    path.write_bytes(data)
    with pytest.raises(SpecError, match="corrupt"):
        Ledger(path)


def test_another_program_s_database_is_not_ours(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE notes (text TEXT)")
    db.close()
    with pytest.raises(SpecError, match="is no ledger of archspec"):
        Ledger(path)


def test_a_newer_ledger_is_refused(path: Path) -> None:
    Ledger(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(SpecError, match="written by a newer archspec"):
        Ledger(path)


def test_reading_a_folder_without_a_search_says_so_and_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no search"):
        Ledger(tmp_path / FILE_NAME, writable=False)
    assert list(tmp_path.iterdir()) == []


def test_reading_leaves_no_file_behind(path: Path) -> None:
    Ledger(path).close()
    before = set(path.parent.iterdir())
    Ledger(path, writable=False).close()
    assert set(path.parent.iterdir()) == before


def test_a_reader_sees_what_a_writer_at_work_has_written(path: Path) -> None:
    writer = Ledger(path)
    writer.add_trial(trial(0), study="s")
    reader = Ledger(path, writable=False)
    assert len(reader.trials()) == 1
    writer.add_trial(trial(1), study="s")
    assert len(reader.trials()) == 2
    reader.close()
    writer.close()


def test_the_same_folder_with_another_identity_is_refused(path: Path) -> None:
    ledger = Ledger(path)
    ledger.bind({"space": "one", "recipe": "r"}, explain={})
    ledger.bind({"space": "one", "recipe": "r", "target": "new"}, explain={})
    with pytest.raises(SpecError, match="holds a search with another recipe"):
        ledger.bind({"space": "one", "recipe": "q"}, explain={"recipe": "another recipe"})
    ledger.close()


def test_two_locks_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with (
        FolderLock(tmp_path),
        pytest.raises(SpecError, match=f"process {os.getpid()} on "),
        FolderLock(tmp_path),
    ):
        pass
    with FolderLock(tmp_path):
        pass


def test_a_lock_from_another_machine_is_believed_on_a_network_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "search.lock").write_text('{"pid": 1, "host": "elsewhere"}')
    with FolderLock(tmp_path):
        pass
    (tmp_path / "search.lock").write_text('{"pid": 1, "host": "elsewhere"}')
    monkeypatch.setattr("search.lock.on_network", lambda path: True)
    with (
        pytest.raises(SpecError, match=r"left locked by another machine \(process 1 on elsewhere"),
        FolderLock(tmp_path),
    ):
        pass


def test_a_network_folder_gets_a_rollback_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.ledgers.sqlite.on_network", lambda path: True)
    ledger = Ledger(path)
    ledger.add_trial(trial(0), study="s")
    assert not path.with_name(f"{FILE_NAME}-wal").exists()
    ledger.close()


def test_an_output_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(SpecError, match="cannot be written"), open_folder(tmp_path / "out"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(SpecError, match="cannot be written"), open_folder(tmp_path / "out"):
            pass
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_file_system_that_only_reads_is_one_clear_error() -> None:
    with pytest.raises(SpecError, match="cannot be written"), open_folder(Path("/proc/out")):
        pass


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "front.csv"
    write_whole(target, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SpecError, match="No space left on device"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["front.csv"]
