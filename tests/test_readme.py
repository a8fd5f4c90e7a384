"""What the README tells people to type works, and what it shows is true."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import compiler
from archspec.source import parse_source
from zoo import load_zoo

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.startswith("archspec ")
]
MINUTES = ("archspec search specs/studies/demo.yaml --out runs/demo", "archspec front runs/demo")  # make demo


def test_the_demo_is_the_only_command_that_takes_minutes() -> None:
    assert set(MINUTES) <= set(COMMANDS)
    assert len(COMMANDS) > len(MINUTES) + 3


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in MINUTES])
def test_a_command_of_the_readme_works(command: str, tmp_path: Path) -> None:
    words = shlex.split(command.replace("runs/", f"{tmp_path}/"))[1:]
    if words[0] == "train":
        words += ["--out", str(tmp_path / "trained"), "--steps", "20"]
    ran = subprocess.run(
        [sys.executable, "-m", "archspec", *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_make_has_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_spec_it_shows_is_the_shipped_one() -> None:
    shown = next(block for language, block in BLOCKS if language == "yaml")
    spec = compiler.resolve(parse_source(shown), load_zoo())
    assert spec == compiler.load_spec(ROOT / "specs" / "hybrids" / "negative_decay_attention.yaml")


def test_every_kind_it_lists_exists_and_none_is_left_out() -> None:
    from search.tasks import load_tasks

    table = README[README.index("## What is in it") :].split("\n\n")[1]
    listed = set(re.findall(r"`(\w+)`", table))
    kinds = {kind for role, kinds in load_zoo().classes.items() for kind in kinds if role != "norm"}
    assert listed - {"parallel"} == kinds | set(load_tasks().classes)


def test_its_pictures_are_there() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file()
