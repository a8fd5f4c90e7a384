"""Texts that are deep or circular."""

from __future__ import annotations

import pytest

from archspec import SpecError
from archspec.nodes import MAX_DEPTH
from archspec.source import parse_source


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500,
        "a: " + "[" * 200_000,
        "a: " + "{b: " * 5_000,
        "a: " + "[" * 100 + "]" * 100,
        "- " * 10_000,
        "? " * 5_000,
        "".join("  " * i + "- \n" for i in range(400)),
        "".join(" " * i + "k:\n" for i in range(400)),
        "a: &a " + "[" * 60 + "]" * 60 + "\nb: " + "[" * 30 + "*a" + "]" * 30,
    ],
    ids=[
        "flow",
        "flow long",
        "flow maps",
        "closed",
        "dashes",
        "complex keys",
        "block",
        "block maps",
        "by alias",
    ],
)
def test_depth_is_limited_with_a_place(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_source(text)
    assert caught.value.problems[0].line is not None


def test_the_limit_is_exact() -> None:
    depth = MAX_DEPTH - 1  # the mapping on top is a level as well
    assert parse_source("a: " + "[" * depth + "]" * depth).tree
    with pytest.raises(SpecError, match=f"nested deeper than {MAX_DEPTH} levels"):
        parse_source("a: " + "[" * (depth + 1) + "]" * (depth + 1))


@pytest.mark.parametrize(
    "text", ["a: &a [*a]", "a: &a {b: *a}", "a: &a [[[*a]]]", "&a {a: *a}", "a: &a {<<: *a}"]
)
def test_what_contains_itself_is_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_source(text)
    assert "stands inside what it names" in caught.value.message
    assert caught.value.problems[0].column is not None
