"""Tags that other loaders turn into objects, and so into code."""

from __future__ import annotations

from pathlib import Path

import pytest

from archspec import SpecError
from archspec.source import parse_source

MARKER = "touched_by_a_spec"
TAGS = [
    "!!python/object/apply:os.system [touch MARKER]",
    "!!python/object/new:os.system [touch MARKER]",
    "!!python/object:os.system {}",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!<tag:yaml.org,2002:python/object/apply:os.system> [touch MARKER]",
    "!<!local> x",
    "!foo {a: 1}",
    "! x",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!timestamp 2024-01-01",
    "!!merge <<",
    "!include /etc/passwd",
    "!env HOME",
]


@pytest.mark.parametrize("tagged", TAGS)
@pytest.mark.parametrize("where", ["a: {}", "a: [{}]", "{}: 1", "a: {{b: {}}}"])
def test_a_tag_is_refused_where_it_stands(
    tagged: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = where.format(tagged.replace("MARKER", MARKER))
    with pytest.raises(SpecError) as caught:
        parse_source(text, file="x.yaml")
    problem = caught.value.problems[0]
    assert (problem.file, problem.line) == ("x.yaml", 1)
    assert problem.column is not None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("directive", ["%TAG ! tag:yaml.org,2002:python/", "%YAML 1.1"])
def test_a_directive_cannot_bring_tags_or_another_yaml(directive: str) -> None:
    with pytest.raises(SpecError):
        parse_source(f"{directive}\n---\na: !object:os.system x\n")
