"""A disk that fills up in the middle of a search: one clear message, nothing lost, and it goes on after.

A small file system of its own (``tmpfs``) where the tests may mount one; everywhere a limit on the size of
files (``RLIMIT_FSIZE``), which stops the ledger's writes in the same place.
"""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from faults import assert_whole, begun, recorded, run
from faulty_drive import Options

_SIZE = 600_000  # bytes: the ledger is made, and some rounds fit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of ``_SIZE`` bytes, or the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def interrupted(out: Path, *, first: Callable[[], None] | None = None) -> set[str]:
    """A search that meets the end of its disk; what it had recorded."""
    code, _, error = run(out, Options(trials=40), first=first)
    assert code == 1, "the disk was large enough"
    assert "ledger.sqlite cannot be written" in error
    assert "what is finished is safe; make room" in error
    assert "Traceback" not in error
    found = recorded(out)
    assert found, "nothing was recorded before the disk was full"
    return found


def assert_goes_on(out: Path, known: set[str]) -> None:
    before = begun(out)
    code, _, error = run(out, Options(trials=40))
    assert code == 0, error
    assert not known & set(begun(out) - before), "a result that was recorded has been computed again"
    assert_whole(out, n_trials=40).close()


def test_a_full_file_system(small_disk: Path) -> None:
    out = small_disk / "out"
    known = interrupted(out)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert_goes_on(out, known)


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    out = tmp_path / "out"
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (_SIZE // 2, resource.RLIM_INFINITY))
    assert_goes_on(out, interrupted(out, first=limit))
