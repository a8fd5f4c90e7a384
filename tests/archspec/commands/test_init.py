"""archspec init."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from archspec.source import load_source

Run = Callable[..., Any]


def test_the_files_pass_check_and_their_schemas(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new folder"
    ran = run("init", str(folder))
    assert ran.code == 0
    assert ran.out.splitlines() == [str(folder / f"{name}.yaml") for name in ("spec", "space", "study")]
    checked = run("check", str(folder))
    assert (checked.code, checked.err) == (0, "")
    for name in ("spec", "space", "study"):
        modeline = (folder / f"{name}.yaml").read_text().splitlines()[0]
        schema = folder / modeline.removeprefix("# yaml-language-server: $schema=")
        Draft202012Validator(json.loads(schema.read_text())).validate(
            load_source(folder / f"{name}.yaml").tree
        )


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("mine")
    ran = run("init", str(tmp_path))
    assert ran.code == 1
    assert "study.yaml: exists already, so nothing was written" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    assert (tmp_path / "study.yaml").read_text() == "mine"


def test_a_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = run("init", str(tmp_path / "file" / "below"))
    assert ran.code == 1
    assert ran.err.startswith("error: ")
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_the_study_runs(run: Run, tmp_path: Path) -> None:
    run("init", str(tmp_path))
    ran = run("search", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--trials", "1")
    assert ran.code == 0, ran.err
    assert list((tmp_path / "out" / "front").glob("*.yaml"))
