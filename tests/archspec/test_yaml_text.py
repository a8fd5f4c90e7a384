"""YAML text -> nodes: values by the core schema of YAML 1.2, places, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from archspec import SpecError
from archspec.source import parse_source


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3e5", 300000.0),
        ("no", "no"),
        ("yes", "yes"),
        ("12:30:45", "12:30:45"),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("~", None),
        ("", None),
        ("True", True),
        ("'true'", "true"),
        ("-.5", -0.5),
        ("2024-01-01", "2024-01-01"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("-.inf", -math.inf),
        ('"a\\u0041"', "aA"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    found = parse_source(f"a: {text}").tree["a"]
    assert (type(found), found) == (type(value), value)


def test_nan_is_a_number() -> None:
    assert math.isnan(parse_source("a: .nan").tree["a"])


def test_every_value_and_key_has_its_place() -> None:
    source = parse_source("archspec: 1\nlayers:\n  - {token_mixer: attention, n: [1, 22]} # why\n")
    value = source.place(("layers", 0, "token_mixer"))
    assert (value.line, value.column, value.width) == (3, 19, 9)
    assert value.excerpt == "  - {token_mixer: attention, n: [1, 22]} # why"
    key = source.place(("layers", 0, "token_mixer"), of_key=True)
    assert (key.line, key.column, key.width) == (3, 6, 11)
    assert source.place(("layers", 0, "n", 1)).column == 37
    assert source.place(("layers", 0)).width == 36


def test_the_place_of_an_absent_value_is_that_of_what_is_around_it() -> None:
    source = parse_source("a: {b: 1}\n")
    assert source.place(("a", "missing", 3)) == source.place(("a",))


def test_an_alias_has_the_place_of_its_anchor_and_is_expanded() -> None:
    source = parse_source("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n")
    assert source.tree == {"a": {"b": 1}, "c": {"b": 1}, "d": {"e": 2, "b": 1}}
    assert source.place(("c", "b")).line == 1
    assert source.place(("d", "b"), of_key=True).line == 1


def test_what_is_written_wins_over_what_is_merged() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\n"
    assert parse_source(text).tree["c"] == {"y": 3, "x": 1, "z": 2}


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("", "the file is empty", (1, 1)),
        ("# only a comment\n", "the file is empty", (1, 1)),
        ("a: 1\na: 2\n", "duplicate key 'a'; it stands in line 1 already", (2, 1)),
        ("a: {b: 1, b: 2}", "duplicate key 'b'", (1, 11)),
        ("a: [1\n", "not valid YAML", (2, 1)),
        ("a:\n\t- b", "not valid YAML", (2, 1)),
        ("a: b: c", "not valid YAML", (1, 5)),
        ("a: 1\n---\nb: 2\n", "a second document", (2, 1)),
        ("%YAML 1.1\n---\na: no\n", "a % directive", (2, 1)),
        ("? [1]\n: 2\n", "a key must be a plain word", (1, 3)),
        ("a: *nothing", "alias '*nothing' has no anchor", (1, 4)),
        ("a: x\0y", "a NUL character", (1, 5)),
        ("a: \x07", "may not stand in YAML", (1, 4)),
        ('a: "\\U00110000"', "not valid YAML", (1, 1)),
        ("- a\n- b\n", "a mapping must stand here", (1, 1)),
        ("just text", "a mapping must stand here, not 'just text'", (1, 1)),
        ("a: !!int x", "'x' is no int", (1, 4)),
        ("a: {<<: 3}", "'<<' merges mappings only", (1, 9)),
    ],
)
def test_what_is_no_plain_document_is_refused_with_its_place(
    text: str, message: str, place: tuple[int, int]
) -> None:
    with pytest.raises(SpecError) as caught:
        parse_source(text, file="x.yaml")
    problem = caught.value.problems[0]
    assert message in problem.message
    assert (problem.file, problem.line, problem.column) == ("x.yaml", *place)


def test_windows_line_ends_and_a_byte_order_mark_do_not_move_places() -> None:
    source = parse_source("\ufeffa: 1\r\nb: {c: 2}\r\n")
    assert source.tree == {"a": 1, "b": {"c": 2}}
    place = source.place(("b", "c"))
    assert (place.line, place.column, place.excerpt) == (2, 8, "b: {c: 2}")
