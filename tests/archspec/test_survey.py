"""What 'check' says of a space."""

from __future__ import annotations

import math

from archspec import ModelSpec, SpecError
from archspec.components import Components
from archspec.source import parse_source
from archspec.space import Space
from archspec.survey import survey

HEAD = (
    "{archspec: 1, input: {kind: tokens, vocab_size: 8, seq_len: 8}, causal: true, "
    "stem: embedding, head: lm, "
)


def accept(_: ModelSpec) -> None:
    """Whatever validates compiles."""


def space(rest: str) -> Space:
    return Space(parse_source(HEAD + "\n" + rest + "}"))


def test_a_small_space_is_tried_whole(components: Components) -> None:
    one = space("d_model: {choice: [8, 16]}, layers: [{token_mixer: {choice: [attention, none, mamba2]}}]")
    found = survey(one, components, check=accept)
    assert (found.n_fillings, found.is_exact, found.tried_all) == (6, True, True)
    assert (found.n_tried, found.n_valid, len(found.hashes), found.problems) == (6, 6, 6, [])
    assert found.summary() == "6 fillings; all tried: 6 valid, 6 different architectures"


def test_equal_architectures_count_once(components: Components) -> None:
    one = space("d_model: 8, layers: [{token_mixer: {choice: {a: mamba2, b: {kind: mamba2, d_state: 64}}}}]")
    found = survey(one, components, check=accept)
    assert (found.n_valid, len(found.hashes)) == (2, 1)


def test_an_option_that_never_fits_is_named_with_its_place_and_a_reason(components: Components) -> None:
    one = space("d_model: {choice: [8, 0]}, layers: [{token_mixer: {choice: [attention, atention]}}]")
    found = survey(one, components, check=accept)
    assert [(p.path, p.line, p.message) for p in found.problems] == [
        ("d_model", 2, "no filling with 0 here is valid"),
        ("layers[0].token_mixer", 2, "no filling with 'atention' here is valid"),
    ]
    assert found.problems[1].hint is not None
    assert "unknown token mixer 'atention'" in found.problems[1].hint


def test_options_inside_a_refused_branch_are_not_told_again(components: Components) -> None:
    one = space(
        "d_model: 8, layers: [{token_mixer: {choice: "
        "{a: mamba2, b: {kind: mamba2, n_heads: {choice: [1, 2]}}}}}]"
    )
    found = survey(one, components, check=accept)
    assert [p.path for p in found.problems] == ["layers[0].token_mixer"]


def test_what_the_compiler_refuses_counts_as_invalid(components: Components) -> None:
    def refuse_wide(spec: ModelSpec) -> None:
        if spec.d_model > 8:
            raise SpecError("too wide")

    one = space("d_model: {choice: [8, 16]}, layers: [{token_mixer: mamba2}]")
    found = survey(one, components, check=refuse_wide)
    assert (found.n_tried, found.n_valid) == (2, 1)
    assert found.problems[0].hint == "for one, too wide"


def test_a_large_space_is_sampled_and_rare_options_are_sought(components: Components) -> None:
    rare = "{int: [1, 1000]}"
    one = space(
        f"d_model: {rare}, layers: [{{token_mixer: {{kind: attention, n_heads: {rare}}}}}, "
        "{token_mixer: {choice: [mamba2, atention, attention]}}]"
    )
    found = survey(one, components, check=accept)
    assert (found.n_fillings, found.tried_all, found.n_tried) == (3_000_000, False, 100)
    assert 0 < found.n_valid < 100
    assert [p.message for p in found.problems] == ["none of 40 fillings with 'atention' here is valid"]


def test_a_space_with_a_float_hole_has_no_count(components: Components) -> None:
    one = space("d_model: 8, layers: [{token_mixer: {kind: attention, dropout: {float: [0, 0.5]}}}]")
    found = survey(one, components, check=accept)
    assert found.n_fillings == math.inf
    assert found.as_json()["fillings"] is None
    assert found.summary().startswith("infinitely many fillings (a float hole); 100 sampled: 100 valid")
