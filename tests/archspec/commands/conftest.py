"""Running the command line inside the test's process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import pytest

from archspec.commands import main


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Run(Protocol):
    def __call__(self, *arguments: str) -> Ran: ...


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("check", "x.yaml")`` as a shell would."""
    monkeypatch.setenv("COLUMNS", "160")

    def run_command(*arguments: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["archspec", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        streams = capsys.readouterr()
        code = caught.value.code
        return Ran(code if isinstance(code, int) else 0 if code is None else 1, streams.out, streams.err)

    return run_command
