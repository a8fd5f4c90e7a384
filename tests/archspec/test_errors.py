"""What a user sees of an error."""

from __future__ import annotations

import pytest

from archspec import Problem, SpecError, did_you_mean
from archspec.errors import shown


def test_a_problem_shows_place_line_caret_and_hint() -> None:
    line = "  - {token_mixer: {kind: attention, n_head: 4}}"
    problem = Problem(
        "unknown field 'n_head'", "layers[0].token_mixer.n_head", "specs/hybrid.yaml", 5, 37,
        "did you mean 'n_heads'?", line, 6,
    )  # fmt: skip
    assert problem.render() == (
        "error: specs/hybrid.yaml:5:37: layers[0].token_mixer.n_head: unknown field 'n_head'\n"
        "   5 |   - {token_mixer: {kind: attention, n_head: 4}}\n"
        "     |                                     ^^^^^^\n"
        "  hint: did you mean 'n_heads'?"
    )


def test_a_problem_without_a_place_is_one_line() -> None:
    assert Problem("no such file", file="x.yaml").render("warning") == "warning: x.yaml: no such file"


@pytest.mark.parametrize("column", [1, 60, 500, 999])
def test_a_long_line_is_cut_around_the_caret(column: int) -> None:
    line = "".join(chr(ord("a") + i % 26) for i in range(1000))
    _, excerpt, caret = Problem("m", "", "f", 1, column, None, line, 4).render().split("\n")
    assert len(excerpt) < 120
    at = caret.index("^")
    assert excerpt[at : at + 4] == line[column - 1 : column + 3]


def test_the_caret_stands_under_wide_characters() -> None:
    line = "{名前: x}"
    _, _, caret = Problem("m", "", "f", 1, 6, None, line, 1).render().split("\n")
    assert caret == "     | " + " " * 7 + "^"  # brace, two characters of two cells, colon, blank


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("n_head", ["n_heads", "window"], "did you mean 'n_heads'?"),
        ("hidden_size", ["d_model", "causal"], "here it is 'd_model'"),
        ("hidden_size", ["vocabulary", "causal"], "known here: causal, vocabulary"),
        ("qqq", ["b", "a"], "known here: a, b"),
        ("qqq", [], None),
        ("q" * 10_000, [str(i) for i in range(100)], None),
    ],
)
def test_did_you_mean(word: str, known: list[str], hint: str | None) -> None:
    assert did_you_mean(word, known) == hint


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (None, "null"), (3, "3"), ("3", "'3'"), ("a\x1b[31m", "'a\\x1b[31m'"),
        ([1, "a"], "[1, 'a']"), ("a\nb", "'a\\x0ab'"),
        ("x" * 500, "'" + "x" * 55 + "...'"), ({"a": 1}, "{'a': 1}"),
    ],
)  # fmt: skip
def test_values_in_messages(value: object, text: str) -> None:
    assert shown(value) == text


def test_an_error_tells_all_its_problems_and_fills_in_the_file() -> None:
    error = SpecError(problems=[Problem("one"), Problem("two", file="b")]).located("a")
    assert str(error) == "error: a: one\nerror: b: two"
    assert error.problems[0].as_json() == {
        "line": None, "column": None, "path": "", "message": "one", "hint": None,
    }  # fmt: skip
