"""``--help`` and ``schema`` must be quick, so they import no torch; and this test can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import archspec.commands

VERBS = sorted(
    path.stem.removesuffix("_")
    for path in Path(archspec.commands.__path__[0]).glob("*.py")
    if not path.stem.startswith("_")
)
SCRIPT = """
import sys
from archspec.commands import main
sys.argv = ["archspec", *{arguments!r}]
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
heavy = sorted({{"torch", "numpy", "optuna", "networkx", "altair"}} & set(sys.modules))
assert not heavy, f"imported {{heavy}}"
"""


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(arguments=arguments)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["schema"], ["schema", "study"]], ids=" ".join)
def test_without_torch(arguments: list[str]) -> None:
    done = run(arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_needs_no_torch(verb: str) -> None:
    done = run([verb, "--help"])
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize("verb", ["list", "show", "probe", "calibrate"])
def test_the_help_of_what_devices_do_needs_no_torch(verb: str) -> None:
    done = run(["device", verb, "--help"])
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_a_verb_that_needs_torch_is_caught() -> None:
    done = run(["zoo", "--json"])
    assert done.returncode != 0
    assert "imported ['networkx', 'numpy'" in done.stderr or "imported ['numpy'" in done.stderr
    assert "torch" in done.stderr


def test_init_needs_no_torch(tmp_path: Path) -> None:
    assert run(["init", str(tmp_path)]).returncode == 0
