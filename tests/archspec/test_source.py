"""Files: what can be read, what extends what, and where the values of each come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from archspec import SpecError
from archspec.source import load_source


def write(folder: Path, **texts: str) -> None:
    (folder / ".git").mkdir(exist_ok=True)  # the project's root
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def refusal(path: Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_source(path)
    return caught.value


def test_mappings_merge_and_lists_replace(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="a: {x: 1, y: {z: 1}}\nlist: [1, 2, 3]\nkept: yes\n",
        over="extends: base.yaml\na: {y: {w: 2}}\nlist: [9]\n",
    )
    tree = load_source(tmp_path / "over.yaml").tree
    assert tree == {"a": {"x": 1, "y": {"z": 1, "w": 2}}, "list": [9], "kept": "yes"}


@pytest.mark.parametrize(
    ("base", "over"),
    [
        ("{kind: mamba2, d_state: 64}", "{kind: attention}"),
        ("{choice: [a, b]}", "{int: [1, 2]}"),
        ("{parallel: [a, b]}", "{kind: attention}"),
    ],
)
def test_a_mapping_of_another_kind_replaces(tmp_path: Path, base: str, over: str) -> None:
    write(tmp_path, base=f"a: {base}\n", over=f"extends: base.yaml\na: {over}\n")
    (tmp_path / "alone.yaml").write_text(f"a: {over}\n")
    assert load_source(tmp_path / "over.yaml").tree == load_source(tmp_path / "alone.yaml").tree


def test_values_keep_the_place_of_the_file_they_stand_in(tmp_path: Path) -> None:
    write(tmp_path, base="a: {x: 1}\nb: 2\n", over="extends: base.yaml\na: {y: 3}\n")
    source = load_source(tmp_path / "over.yaml")
    assert source.place(("a", "x")).file == str(tmp_path / "base.yaml")
    assert source.place(("a", "y")).file == str(tmp_path / "over.yaml")
    assert source.place(("b",), of_key=True).line == 2


def test_a_chain_of_files_in_several_folders(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, base="a: 1\nb: 1\nc: 1\n", top="extends: sub/middle.yaml\nc: 3\n")
    (tmp_path / "sub" / "middle.yaml").write_text("extends: ../base.yaml\nb: 2\n")
    source = load_source(tmp_path / "top.yaml")
    assert source.tree == {"a": 1, "b": 2, "c": 3}
    assert source.place(("a",)).file == str(tmp_path / "base.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: nowhere.yaml", "no such file: 'nowhere.yaml'"),
        ("extends: x.yaml", "extends this file in turn"),
        ("extends: [a.yaml]", "must be the path of one YAML file"),
        ("extends: 3", "must be the path of one YAML file"),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, x=f"{text}\n")
    error = refusal(tmp_path / "x.yaml")
    assert message in error.message
    assert (error.problems[0].line, error.problems[0].column, error.path) == (1, 10, "extends")


def test_a_circle_of_files_is_refused_where_it_closes(tmp_path: Path) -> None:
    write(tmp_path, a="extends: b.yaml\n", b="extends: c.yaml\n", c="extends: a.yaml\n")
    error = refusal(tmp_path / "a.yaml")
    assert "'a.yaml' extends this file in turn" in error.message
    assert error.problems[0].file == str(tmp_path / "c.yaml")


def test_an_error_inside_an_extended_file_names_that_file(tmp_path: Path) -> None:
    write(tmp_path, base="a: 1\na: 2\n", over="extends: base.yaml\n")
    problem = refusal(tmp_path / "over.yaml").problems[0]
    assert (problem.file, problem.line) == (str(tmp_path / "base.yaml"), 2)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.yaml").message == "no such file"
    assert refusal(tmp_path).message == "this is a folder, not a file"
    assert refusal(Path("/dev/zero")).message == "this is not a regular file"
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    problem = refusal(tmp_path / "latin.yaml").problems[0]
    assert problem.message == "byte 0xe9 is not UTF-8"
    assert (problem.line, problem.column) == (2, 7)
    (tmp_path / "utf16.yaml").write_text("a: 1\n", encoding="utf-16")
    assert "is not UTF-8" in refusal(tmp_path / "utf16.yaml").message
