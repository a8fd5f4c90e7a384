"""Every input gives a spec or a SpecError with a place, never another exception."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archspec import ModelSpec, Problem, SpecError
from archspec.identity import spec_hash
from archspec.source import load_source, parse_source
from archspec.space import Space
from archspec.validate import validate
from zoo import load_zoo

ROOT = Path(__file__).parents[2]
COMPONENTS = load_zoo().components
SPEC = (ROOT / "specs/hybrids/parallel_heads.yaml").read_text()
SPACE = (ROOT / "archspec/templates/space.yaml").read_text()


def judge(text: str, overrides: tuple[str, ...] = ()) -> None:
    """Read, validate, hash; and the same as a space."""
    try:
        source = parse_source(text, file="x.yaml", overrides=overrides)
    except SpecError as error:
        check_place(error)
        return
    try:
        assert len(spec_hash(validate(ModelSpec, source, COMPONENTS))) == 64
    except SpecError as error:
        check_place(error)
    try:
        space = Space(source)
        space.count()
        space.spec(space.sample(random.Random(0)), COMPONENTS)
    except SpecError as error:
        check_place(error)


def check_place(error: SpecError) -> None:
    for problem in error.problems:
        assert problem.message
        assert problem.file in {"x.yaml", "(command line)"}
        assert problem.line is not None
        assert problem.column is not None
        assert problem.line >= 1
        assert problem.column >= 1
        rendered = problem.render()
        assert len(rendered) < 4000
        assert all(len(line) < 1500 for line in rendered.split("\n"))


@given(text=st.text(max_size=300))
def test_any_text(text: str) -> None:
    judge(text)


@given(text=st.text(alphabet="[]{}:,-?&*!|>'\"%@`# \n\tab1.~<", max_size=60))
def test_punctuation(text: str) -> None:
    judge(text)
    judge(f"archspec: 1\nlayers: {text}\n")


VOCABULARY = """
archspec name input causal d_model norm residual stem layers head kind tokens vocab_size seq_len repeat loop fit
pattern symbols parallel combine token_mixer channel_mixer attention mamba2 none swiglu n_heads window lm choice
int float share step log schedule local global (1)2(1) x extends M
"""
WORDS = st.sampled_from(VOCABULARY.split())
SCALARS = st.one_of(WORDS, st.integers(-3, 40), st.floats(), st.booleans(), st.none(), st.just(10**30))
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=5)),
    max_leaves=25,
)


def as_yaml(tree: Any) -> str:
    return json.dumps(tree).replace("NaN", ".nan").replace("-Infinity", "-.inf").replace("Infinity", ".inf")


@given(tree=st.dictionaries(WORDS, TREES, max_size=8))
def test_trees_of_the_language_s_words(tree: dict[str, Any]) -> None:
    judge(as_yaml(tree))


@given(data=st.data(), spec=st.sampled_from([SPEC, SPACE]))
def test_good_files_with_a_part_cut_out_doubled_or_replaced(data: st.DataObject, spec: str) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(spec)))
        end = data.draw(st.integers(start, min(len(spec), start + 40)))
        part = data.draw(st.one_of(st.just(""), st.just(spec[start:end] * 2), st.text(max_size=4), WORDS))
        spec = spec[:start] + part + spec[end:]
    judge(spec)


@given(data=st.data())
def test_a_good_tree_with_one_value_replaced(data: st.DataObject) -> None:
    tree = parse_source(data.draw(st.sampled_from([SPEC, SPACE]))).tree
    part: Any = tree
    while True:
        keys = list(part) if isinstance(part, dict) else list(range(len(part)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if not isinstance(part[key], dict | list) or data.draw(st.booleans()):
            part[key] = data.draw(TREES)
            break
        part = part[key]
    judge(as_yaml(tree))


@given(override=st.one_of(st.text(max_size=40), st.builds("{}={}".format, WORDS, st.text(max_size=20))))
def test_any_override(override: str) -> None:
    judge(SPEC, (override,))


@given(data=st.binary(max_size=200))
def test_any_file(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    problems: tuple[Problem, ...] = ()
    try:
        assert isinstance(load_source(path).tree, dict)
    except SpecError as error:
        problems = error.problems
    assert all(problem.file == str(path) and problem.line is not None for problem in problems)
