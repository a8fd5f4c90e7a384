"""``extends`` reads files of the project and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archspec import SpecError
from archspec.source import load_source, parse_source

NOT_OURS = "root:x:0:0:secret"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a file beside it that must not be read."""
    (tmp_path / "secret.yaml").write_text(f"a: '{NOT_OURS}'\n")
    folder = tmp_path / "project"
    (folder / "specs").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    return folder


def refused(spec: Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_source(spec)
    assert NOT_OURS not in str(caught.value)
    assert caught.value.problems[0].line == 1
    return caught.value


@pytest.mark.parametrize(
    "target",
    [
        "../../secret.yaml", "../specs/../../secret.yaml", "./.././../secret.yaml",
        "../../../../../../etc/passwd", "/etc/passwd", "//etc/passwd", "~/x.yaml", "file:///etc/passwd", "https://example.org/x.yaml",
        "..\\\\..\\\\secret.yaml", "specs\\0/../../secret.yaml", "../../project/../secret.yaml",
    ],
)  # fmt: skip
def test_no_path_leads_out(project: Path, target: str) -> None:
    spec = project / "specs" / "x.yaml"
    spec.write_text(f'extends: "{target}"\n')
    refused(spec)


def test_no_link_leads_out(project: Path) -> None:
    spec = project / "specs" / "x.yaml"
    os.symlink(project.parent / "secret.yaml", project / "specs" / "link.yaml")
    spec.write_text("extends: link.yaml\n")
    assert "lies outside the project" in refused(spec).message
    os.symlink(project.parent, project / "specs" / "up")
    spec.write_text("extends: up/secret.yaml\n")
    assert "lies outside the project" in refused(spec).message


def test_a_link_in_a_circle(project: Path) -> None:
    os.symlink("b.yaml", project / "specs" / "a.yaml")
    os.symlink("a.yaml", project / "specs" / "b.yaml")
    spec = project / "specs" / "x.yaml"
    spec.write_text("extends: a.yaml\n")
    refused(spec)
    with pytest.raises(SpecError):
        load_source(project / "specs" / "a.yaml")


def test_devices_and_pipes_are_not_read(project: Path) -> None:
    os.mkfifo(project / "specs" / "pipe.yaml")
    spec = project / "specs" / "x.yaml"
    spec.write_text("extends: pipe.yaml\n")
    refused(spec)
    with pytest.raises(SpecError, match="not a regular file"):
        load_source(project / "specs" / "pipe.yaml")


def test_without_a_project_only_the_own_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "above.yaml").write_text(f"a: {NOT_OURS!r}\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "beside.yaml").write_text("a: 1\n")
    spec = tmp_path / "own" / "x.yaml"
    spec.write_text("extends: beside.yaml\n")
    assert load_source(spec).tree == {"a": 1}
    spec.write_text("extends: ../above.yaml\n")
    assert "lies outside the project" in refused(spec).message


def test_the_command_line_cannot_extend_either(project: Path) -> None:
    """An override comes after ``extends`` was settled, so it is an unknown field like any other."""
    spec = project / "specs" / "x.yaml"
    spec.write_text("a: 1\n")
    assert load_source(spec, overrides=["extends=../../secret.yaml"]).tree == {
        "a": 1,
        "extends": "../../secret.yaml",
    }
    with pytest.raises(SpecError, match="a text cannot extend a file"):
        parse_source("extends: /etc/passwd")


def test_a_chain_of_many_files_ends(project: Path) -> None:
    for i in range(40):
        (project / "specs" / f"x{i}.yaml").write_text(f"extends: x{i + 1}.yaml\n")
    (project / "specs" / "x40.yaml").write_text("a: 1\n")
    assert "files extend one another" in refused(project / "specs" / "x0.yaml").message
