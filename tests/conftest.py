"""Fixtures and policy for all tests: one seed, one thread; warnings are errors (see pyproject.toml)."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

SEED = 1234


@pytest.fixture(autouse=True)
def _fixed_seed() -> Iterator[None]:
    """Every test starts from the same random state and leaves none behind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


@pytest.fixture
def generator() -> torch.Generator:
    """A generator of its own for tests that draw inputs."""
    return torch.Generator().manual_seed(SEED)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_counts() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would the processes that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run on one thread: small shapes are faster so, and results do not depend on the machine."""
    torch.set_num_threads(1)
