"""Every problem of a file at once, each at its place and in plain words."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from archspec import ModelSpec, SpecError
from archspec.components import Components
from archspec.errors import Problem
from archspec.source import parse_source
from archspec.spec import Layer
from archspec.validate import validate

HEAD = """archspec: 1
input: {kind: tokens, vocab_size: 64, seq_len: 32}
causal: true
d_model: 32
stem: embedding
head: lm
"""


def problems(text: str, components: Components, overrides: tuple[str, ...] = ()) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        validate(ModelSpec, parse_source(text, file="x.yaml", overrides=overrides), components)
    return caught.value.problems


def only(layers: str, components: Components) -> Problem:
    found = problems(f"{HEAD}layers:\n  - {layers}\n", components)
    assert len(found) == 1, [p.message for p in found]
    return found[0]


def test_a_good_spec_has_its_defaults_spelt_out(components: Components) -> None:
    source = parse_source(HEAD + "layers: [{token_mixer: attention}]")
    spec = validate(ModelSpec, source, components)
    layer = spec.layers[0]
    assert isinstance(layer, Layer)
    assert layer.channel_mixer.kind == "none"
    assert spec.norm.kind == "rmsnorm"
    assert spec.residual == "pre"


def test_all_problems_of_a_file_are_told_in_its_order(components: Components) -> None:
    text = """archspec: 1
name: x
hidden_size: 3
input: {kind: tokenz, vocab_size: 512, seq_len: 1024}
causal: yes
d_model: 0
stem: embeding
layers:
  - {token_mixer: {kind: attention, n_head: 4, dropout: "0"}}
  - repeat: 3.5
    layers:
      - {token_mixer: {kind: attention, n_heads: 0}, channel_mixer: foo}
  - loop: 2
  - fit: {n_groups: 1, schedule: "1", local: {token_mixer: attention, channel_mixer: {kind: mlp, d_f: 3}}}
  - token_mixer: {parallel: [attention]}
  - attention
  - pattern: "MX"
    symbols: {M: attention}
  - {token_mixr: attention}
  - {}
head: {kind: lm, tied: 1}
"""
    found = [(p.line, p.column, p.width, p.path, p.message) for p in problems(text, components)]
    assert found == [
        (3, 1, 11, "hidden_size", "unknown field 'hidden_size'"),
        (4, 15, 6, "input.kind", "unknown kind 'tokenz'"),
        (5, 9, 3, "causal", "must be true or false, got 'yes'"),
        (6, 10, 1, "d_model", "must be at least 1, got 0"),
        (7, 7, 8, "stem", "unknown stem 'embeding'"),
        (9, 37, 6, "layers[0].token_mixer.n_head", "unknown field 'n_head'"),
        (9, 57, 3, "layers[0].token_mixer.dropout", "must be a number, got '0'"),
        (10, 13, 3, "layers[1].repeat", "must be an integer, got 3.5"),
        (12, 50, 1, "layers[1].layers[0].token_mixer.n_heads", "must be at least 1, got 0"),
        (12, 69, 3, "layers[1].layers[0].channel_mixer", "unknown channel mixer 'foo'"),
        (13, 5, 7, "layers[2].layers", "missing field 'layers'"),
        (14, 10, 97, "layers[3].fit.n_latents", "missing field 'n_latents'"),
        (14, 10, 97, "layers[3].fit.d_latent", "missing field 'd_latent'"),
        (14, 10, 97, "layers[3].fit.global", "missing field 'global'"),
        (14, 34, 3, "layers[3].fit.schedule",
         "schedule '1' is not of the form '(2)4(2)' or '(1)2(1)2'"),
        (14, 98, 3, "layers[3].fit.local.channel_mixer.d_f", "unknown field 'd_f'"),
        (15, 29, 11, "layers[4].token_mixer.parallel", "needs at least 2 items, got 1"),
        (16, 5, 9, "layers[5]", "a layer is a mapping, got 'attention'"),
        (17, 5, 13, "layers[6]", "pattern symbol 'X' is not among the symbols"),
        (19, 6, 10, "layers[7].token_mixr", "unknown field 'token_mixr'"),
        (20, 5, 2, "layers[8]", "a layer needs a token_mixer or a channel_mixer"),
        (21, 24, 1, "head.tied", "must be true or false, got 1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "path", "message", "hint"),
    [
        ("{token_mixer: {kind: attention, n_head: 1}}", "layers[0].token_mixer.n_head",
         "unknown field 'n_head'", "did you mean 'n_heads'?"),
        ("{token_mixer: {kind: mamba2, state_size: 1}}", "layers[0].token_mixer.state_size",
         "unknown field 'state_size'", "here it is 'd_state'"),
        ("{token_mixer: {n_heads: 1}}", "layers[0].token_mixer",
         "a token mixer needs a 'kind'", "known here: attention, mamba2, none"),
        ("{token_mixer: 3}", "layers[0].token_mixer",
         "a token mixer is a kind or a mapping with 'kind', got 3", None),
        ("{token_mixer: atention}", "layers[0].token_mixer",
         "unknown token mixer 'atention'", "did you mean 'attention'?"),
        ("{token_mixer: {kind: attention, n_heads: true}}", "layers[0].token_mixer.n_heads",
         "must be an integer, got true", None),
        ("{token_mixer: {kind: attention, n_heads: 2.0}}", "layers[0].token_mixer.n_heads",
         "must be an integer, got 2.0", None),
        ("{token_mixer: {kind: attention, dropout: 1.5}}", "layers[0].token_mixer.dropout",
         "must be less than 1, got 1.5", None),
        ("{token_mixer: {kind: attention, dropout: .nan}}", "layers[0].token_mixer.dropout",
         "must be a finite number, got nan", None),
        ("{channel_mixer: {kind: swiglu, d_ff: 3}}", "layers[0].channel_mixer.d_ff",
         "must be a multiple of 2, got 3", None),
        ("{channel_mixer: swiglu, residual: pree}", "layers[0].residual",
         "must be one of pre, post, none, got 'pree'", "did you mean 'pre'?"),
        ("{channel_mixer: swiglu, norm: {kind: rmsnorm, eps: [1]}}", "layers[0].norm.eps",
         "must be a number, got [1]", None),
        ("{token_mixer: {parallel: [attention, none], kind: attention}}", "layers[0].token_mixer.parallel",
         "unknown field 'parallel'", "known here: dropout, kind, n_heads, window"),
        ("{token_mixer: {parallel: [attention, atention]}}", "layers[0].token_mixer.parallel[1]",
         "unknown token mixer 'atention'", "did you mean 'attention'?"),
        ("{token_mixer: {parallel: 3}}", "layers[0].token_mixer.parallel", "must be a list, got 3", None),
        ("{token_mixer: {parallel: [attention, none], combine: man}}", "layers[0].token_mixer.combine",
         "must be one of mean, sum, concat, gated, got 'man'", "did you mean 'mean'?"),
        ("{repeat: 0, layers: [{token_mixer: none}]}", "layers[0].repeat",
         "must be at least 1, got 0", None),
        ("{repeat: 2, layers: []}", "layers[0].layers", "must not be empty", None),
        ("{repeat: 2, layers: [{token_mixer: none}], extra: 1}", "layers[0].extra",
         "unknown field 'extra'", "known here: layers, repeat"),
        ("{pattern: '', symbols: {}}", "layers[0].pattern", "must not be empty", None),
        ("{token_mixer: {choice: [attention, none]}}", "layers[0].token_mixer",
         "a token mixer needs a 'kind'", "a hole makes this a search space; a spec has none"),
        ("{repeat: {int: [1, 2]}, layers: [{token_mixer: none}]}", "layers[0].repeat",
         "must be an integer, got {'int': [1, 2]}", "a hole makes this a search space; a spec has none"),
    ],
)  # fmt: skip
def test_one_wrong_layer_is_one_problem(
    layer: str, path: str, message: str, hint: str | None, components: Components
) -> None:
    problem = only(layer, components)
    assert (problem.path, problem.message, problem.hint) == (path, message, hint)
    assert problem.line == 8


@pytest.mark.parametrize("version", ["2", "true", "'1'", "1.0"])
def test_another_version_of_the_language(version: str, components: Components) -> None:
    text = HEAD.replace("archspec: 1", f"archspec: {version}") + "layers: [{token_mixer: none}]"
    (problem,) = problems(text, components)
    assert "reads version 1 of the language" in problem.message
    assert (problem.line, problem.column) == (1, 11)


def test_a_missing_field_says_what_it_is(components: Components) -> None:
    text = HEAD.replace("causal: true\n", "") + "layers: [{token_mixer: none}]"
    (problem,) = problems(text, components)
    assert problem.message == "missing field 'causal'"
    assert problem.hint is not None
    assert "promise" in problem.hint


def test_a_bare_kind_that_needs_a_field(components: Components) -> None:
    text = HEAD.replace("embedding", "patch") + "layers: [{token_mixer: none}]"
    (problem,) = problems(text, components)
    assert (problem.path, problem.message) == ("stem.patch_size", "missing field 'patch_size'")
    assert (problem.line, problem.column, problem.width) == (5, 7, 5)


def test_a_wrong_override_is_shown_on_the_command_line(components: Components) -> None:
    text = HEAD + "layers: [{token_mixer: attention}]"
    (problem,) = problems(text, components, ("layers[0].token_mixer.n_head=2",))
    assert problem.render().startswith(
        "error: (command line):1:1: layers[0].token_mixer.n_head: unknown field 'n_head'\n"
        "   1 | layers[0].token_mixer.n_head=2\n"
        "     | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^"
    )


def test_what_is_built_in_python_is_held_to_the_same(components: Components) -> None:
    with pytest.raises(ValidationError, match="unknown field 'n_head'"):
        components.of("token_mixer")["attention"].model_validate({"n_head": 4})


@pytest.mark.parametrize(
    "layers",
    [
        "{repeat: 10000, layers: [{repeat: 2, layers: [{token_mixer: none}]}]}",
        "{loop: 101, layers: [{repeat: 100, layers: [{token_mixer: none}]}]}",
        "{repeat: 100, layers: [{pattern: '" + "M" * 101 + "', symbols: {M: attention}}]}",
    ],
)
def test_more_layers_than_anyone_needs(layers: str, components: Components) -> None:
    problem = only(layers, components)
    assert "at most 10,000 are allowed" in problem.message
    assert problem.path == "layers"


@pytest.mark.parametrize("schedule", ["(1)", "(1)2", "(2)4(2)", "(1)2(1)2", " (1) 2 (1) ", "(0)3"])
def test_fit_schedules(schedule: str, components: Components) -> None:
    fit = f"{{n_groups: 2, n_latents: 2, d_latent: 8, schedule: '{schedule}', local: {{token_mixer: none}}, "
    source = parse_source(f"{HEAD}layers: [{{fit: {fit} global: {{token_mixer: none}}}}}}]")
    assert validate(ModelSpec, source, components)


@pytest.mark.parametrize("schedule", ["1", "()", "(1)0(2)", "(1)2(", "(a)1", "(1001)", "", "(9999999)"])
def test_no_fit_schedules(schedule: str, components: Components) -> None:
    fit = f"{{n_groups: 2, n_latents: 2, d_latent: 8, schedule: '{schedule}', local: {{token_mixer: none}}, "
    assert (
        only(f"{{fit: {fit} global: {{token_mixer: none}}}}}}", components).path == "layers[0].fit.schedule"
    )
