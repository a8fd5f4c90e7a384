"""Hostile files: each ends soon in a SpecError with its place, and nothing that it names is run or read."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator

import psutil
import pytest

SECONDS = 60


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    """A file that hangs or eats memory fails its test instead of the machine."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(SECONDS)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
