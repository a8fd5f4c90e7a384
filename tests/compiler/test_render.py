"""Graphs, code and Mermaid of three models as text goldens, which UPDATE_GOLDEN=1 rewrites."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from archspec.spec import ModelSpec
from compiler import build_graph, compile_spec
from compiler.graph import wl_hash
from compiler.render import as_json, as_mermaid, as_text

SpecMaker = Callable[..., ModelSpec]
GOLDEN = Path(__file__).parents[1] / "golden"

MODELS = {
    "hybrid": (
        """
- repeat: 2
  layers: [{token_mixer: {kind: mamba2, d_head: 16}}]
- {token_mixer: {parallel: [attention, {kind: attention, window: 8}], combine: gated}, channel_mixer: swiglu}
- loop: 2
  layers: [{channel_mixer: mlp, norm: layernorm, residual: post}]
- {pattern: "A-", symbols: {A: {kind: attention, n_kv_heads: 2}, "-": mlp}}
""",
        ["head={kind: lm, tied: true}"],
    ),
    "fit_causal": (
        """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    positions: learned
    local: {token_mixer: attention, channel_mixer: mlp}
    global: {token_mixer: {kind: attention, n_heads: 2}}
""",
        [],
    ),
    "pooled_bidirectional": (
        "- {token_mixer: pool, channel_mixer: mlp}\n"
        "- {token_mixer: {kind: routing, n_clusters: 3, cluster_window: 6, window: 5}}",
        [
            "causal=false",
            "stem={kind: embedding, positions: learned, cls_token: true}",
            "head={kind: classifier, n_classes: 3, pool: cls}",
        ],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_goldens(make_spec: SpecMaker, name: str) -> None:
    layers, overrides = MODELS[name]
    model = compile_spec(make_spec(layers, *overrides))
    assert not model.warnings
    found = f"{as_text(model.graph)}\n{model.code}\n{as_mermaid(model.graph)}"
    golden = GOLDEN / f"graph_{name}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_text(found)
    assert golden.is_file(), "UPDATE_GOLDEN=1 pytest tests/compiler/test_render.py writes it"
    assert found == golden.read_text(), "if this is meant, UPDATE_GOLDEN=1 rewrites the file; read its diff"


def test_json_holds_every_node_with_its_inputs(make_spec: SpecMaker) -> None:
    graph = build_graph(make_spec(*[MODELS["hybrid"][0]]))
    document = json.loads(json.dumps(as_json(graph)))
    assert [node["name"] for node in document["nodes"]] == list(graph)
    mixer = next(node for node in document["nodes"] if node["name"] == "layers.0.token_mixer")
    assert mixer["kind"] == "token_mixer"
    assert mixer["config"]["kind"] == "mamba2"
    assert mixer["config"]["d_head"] == 16
    assert mixer["origin"] == "layers[0].layers[0].token_mixer"
    assert mixer["stream"] == {"name": "tokens", "length": 24, "width": 16, "fold": 1}
    assert mixer["inputs"] == ["layers.0.token_norm", "stem_mask"]


def test_a_name_with_markup_is_text_in_mermaid(make_spec: SpecMaker) -> None:
    """Nothing of a spec reaches the drawing but kinds and our own names."""
    spec = make_spec("- {channel_mixer: mlp}")
    assert as_mermaid(build_graph(spec)) == as_mermaid(build_graph(spec.model_copy(update={"name": "a.b"})))


def test_the_hash_of_the_graph_sees_what_nodes_do_and_how_they_are_joined(make_spec: SpecMaker) -> None:
    def hash_of(layers: str) -> str:
        return wl_hash(build_graph(make_spec(layers)))

    one = "{token_mixer: attention}"
    assert hash_of(f"- {one}\n- {one}") == hash_of(f"- repeat: 2\n  layers: [{one}]")
    others = [
        "- {token_mixer: attention}",
        "- {token_mixer: {kind: attention, n_heads: 2}}\n- {token_mixer: attention}",
        "- {token_mixer: attention}\n- {token_mixer: {kind: attention, n_heads: 2}}",
        "- {token_mixer: attention}\n- {token_mixer: attention, residual: post}",
    ]
    assert len({hash_of(layers) for layers in [f"- {one}\n- {one}", *others]}) == 5
