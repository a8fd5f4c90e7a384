"""Streams and sites of nodes, and everything that ``build_graph`` refuses or warns of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archspec import Problem, Site, SpecError
from archspec.spec import ModelSpec
from compiler import Stream, build_graph
from compiler.graph import warnings_of

SpecMaker = Callable[..., ModelSpec]

ATTENTION = "- {token_mixer: attention}"
FIT = """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    positions: learned
    local: {token_mixer: attention}
    global: {token_mixer: {kind: attention, n_heads: 2}}
"""


def problems_of(spec: ModelSpec) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        build_graph(spec)
    return caught.value.problems


def test_streams_of_tokens_groups_and_latents(make_spec: SpecMaker) -> None:
    graph = build_graph(make_spec(FIT))
    streams = {name: graph.nodes[name]["op"].stream for name in graph}
    assert streams["inputs"] == Stream("input", 24, 1)
    assert streams["stem"] == streams["layers.0.ungroup"] == Stream("tokens", 24, 16)
    assert streams["layers.0.group"] == streams["layers.0.positions"] == Stream("tokens", 6, 16, fold=4)
    assert streams["layers.0.latents"] == Stream("latents", 8, 12, block=2)
    assert streams["layers.0.blocks.0.read"] == Stream("latents", 2, 12, fold=4)
    assert streams["layers.0.blocks.0.global_layers.0.token_mixer"] == Stream("latents", 8, 12, block=2)
    assert streams["layers.0.blocks.0.write"] == Stream("tokens", 6, 16, fold=4)
    assert streams["layers.0.group_mask"] == Stream("mask", 6, 1, fold=4)
    assert streams["layers.0.latent_mask"] == Stream("mask", 8, 1)
    assert streams["head"] == Stream("output", 24, 31)


def test_sites_say_where_a_component_stands(make_spec: SpecMaker) -> None:
    graph = build_graph(make_spec(FIT))
    ops = {name: graph.nodes[name]["op"] for name in graph}
    block = "layers.0.blocks.0"
    assert ops[f"{block}.local_layers.0.token_mixer"].site == Site(16, 6, causal=True)
    assert ops[f"{block}.global_layers.0.token_mixer"].site == Site(12, 8, causal=True, block=2)
    assert (ops[f"{block}.read"].site, ops[f"{block}.read"].d_source) == (Site(12, 2, True), 16)
    assert (ops[f"{block}.write"].site, ops[f"{block}.write"].d_source) == (Site(16, 6, True), 12)
    both_ways = build_graph(make_spec(FIT, "causal=false"))
    assert both_ways.nodes[f"{block}.global_layers.0.token_mixer"]["op"].site == Site(12, 8, causal=False)


def test_a_cls_token_lengthens_the_stream(make_spec: SpecMaker) -> None:
    spec = make_spec(
        ATTENTION,
        "causal=false",
        "stem={kind: embedding, cls_token: true}",
        "head={kind: classifier, n_classes: 3, pool: cls}",
    )
    graph = build_graph(spec)
    assert graph.nodes["layers.0.token_mixer"]["op"].stream == Stream("tokens", 25, 16)
    assert graph.nodes["stem_mask"]["op"].stream == Stream("mask", 25, 1)
    assert graph.nodes["head"]["op"].stream == Stream("output", 1, 3)


def test_groups_must_divide_the_length(make_spec: SpecMaker) -> None:
    for n_groups, nearest in ((5, 4), (7, 6)):  # groups of 5, which are five; groups of 4, which are six
        (problem,) = problems_of(make_spec(FIT, f"layers[0].fit.n_groups={n_groups}"))
        assert problem.path == "layers[0].fit.n_groups"
        assert f"n_groups {n_groups} does not divide the 24 positions" in problem.message
        assert problem.hint == f"try {nearest}"


def test_everything_wrong_is_told_at_once_with_its_place(make_spec: SpecMaker) -> None:
    layers = """
- {token_mixer: {kind: attention, n_heads: 3}}
- repeat: 2
  layers: [{token_mixer: {kind: attention, n_heads: 5}}]
- {channel_mixer: mlp}
"""
    spec = make_spec(layers, "head={kind: lm, tied: true, d_embed: 8}")
    found = [(p.path, p.line) for p in problems_of(spec)]
    assert found[:2] == [("layers[0].token_mixer", 11), ("layers[1].layers[0].token_mixer", 13)]
    assert found[2][0] == "head"
    assert len(found) == 3  # a repeated layer once


def test_a_bidirectional_mixer_breaks_a_causal_promise(make_spec: SpecMaker) -> None:
    layers = "- {token_mixer: {kind: routing, selection: top_w, n_clusters: 3, cluster_window: 6, window: 5}}"
    (problem,) = problems_of(make_spec(layers))
    assert problem.path == "layers[0].token_mixer"
    assert "token mixer 'routing'" in problem.message
    assert "causal: true" in problem.message
    build_graph(make_spec(layers, "causal=false"))


def test_a_pooling_head_does_not_break_a_causal_promise(make_spec: SpecMaker) -> None:
    build_graph(make_spec(ATTENTION, "head={kind: classifier, n_classes: 3, pool: mean}"))


@pytest.mark.parametrize(
    ("layers", "overrides", "path"),
    [
        (ATTENTION, ["stem=linear"], "stem"),
        (
            ATTENTION,
            ["input={kind: features, d_input: 3, seq_len: 8}", "stem=linear"],
            "head",
        ),
        (FIT, ["layers[0].fit.read={kind: read, n_heads: 5}"], "layers[0].fit.read"),
        (ATTENTION, ["stem={kind: embedding, d_embed: 8}", "head={kind: lm, tied: true}"], "head"),
    ],
    ids=["stem and input", "head and input", "heads of a transfer", "tied widths"],
)
def test_parts_that_do_not_fit_each_other(
    make_spec: SpecMaker, layers: str, overrides: list[str], path: str
) -> None:
    assert [p.path for p in problems_of(make_spec(layers, *overrides))] == [path]


@pytest.mark.parametrize(
    ("layers", "overrides", "path", "says"),
    [
        ("- {token_mixer: {kind: attention, window: 24}}", [], "layers[0].token_mixer", "in disguise"),
        (
            "- {token_mixer: {kind: attention, rope: false}}",
            ["causal=false"],
            "layers[0].token_mixer",
            "order of its tokens",
        ),
        ("- {token_mixer: {kind: mamba2, d_head: 16}}", ["causal=false"], "causal", "no mixer looks ahead"),
        (FIT, ["layers[0].fit.n_groups=1"], "layers[0].fit.n_groups", "no later group"),
    ],
    ids=["window", "order", "needless", "one group"],
)
def test_smells(make_spec: SpecMaker, layers: str, overrides: list[str], path: str, says: str) -> None:
    (warning,) = warnings_of(build_graph(make_spec(layers, *overrides)))
    assert warning.path == path
    assert says in warning.message
    assert warning.file is not None


@pytest.mark.parametrize(
    ("layers", "overrides"),
    [
        ("- {token_mixer: {kind: attention, rope: false}}", []),  # the causal mask tells the order
        (
            "- {token_mixer: {kind: attention, rope: false}}",
            ["causal=false", "stem={kind: embedding, positions: learned}"],
        ),
        (
            "- {token_mixer: {kind: attention, rope: false}}\n- {token_mixer: {kind: attention}}",
            ["causal=false"],
        ),
        (FIT, ["causal=false", "layers[0].fit.local.token_mixer={kind: attention, rope: false}"]),
    ],
    ids=["causal", "stem", "another mixer", "fit positions"],
)
def test_no_smell_where_something_tells_the_order(
    make_spec: SpecMaker, layers: str, overrides: list[str]
) -> None:
    assert warnings_of(build_graph(make_spec(layers, *overrides))) == ()
