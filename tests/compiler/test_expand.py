"""What ``expand`` makes of the grammar, read as the names and inputs of nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archspec.spec import ModelSpec
from compiler.graph import Graph, inputs_of, ops, verify, warnings_of
from compiler.passes.expand import expand

SpecMaker = Callable[..., ModelSpec]


def expanded(spec: ModelSpec) -> Graph:
    graph = expand(spec)
    verify(graph, "expand")
    return graph


def wiring(graph: Graph, start: str = "layers") -> list[str]:
    """``name <- inputs`` of the nodes in layers, masks left out."""
    views = {name for name, op in ops(graph) if op.kind in ("mask", "mask_view")}
    return [
        f"{name} <- {' '.join(i for i in inputs_of(graph, name) if i not in views)}"
        for name, _ in ops(graph)
        if name.startswith(start) and name not in views
    ]


def test_a_pre_norm_layer_adds_to_its_input_and_the_model_ends_with_a_norm(make_spec: SpecMaker) -> None:
    graph = expanded(make_spec("- {token_mixer: attention, channel_mixer: mlp}"))
    assert wiring(graph) == [
        "layers.0.token_norm <- stem",
        "layers.0.token_mixer <- layers.0.token_norm",
        "layers.0.token_add <- stem layers.0.token_mixer",
        "layers.0.channel_norm <- layers.0.token_add",
        "layers.0.channel_mixer <- layers.0.channel_norm",
        "layers.0.channel_add <- layers.0.token_add layers.0.channel_mixer",
    ]
    assert inputs_of(graph, "norm") == ["layers.0.channel_add"]
    assert inputs_of(graph, "head") == ["norm"]


def test_a_post_norm_model_norms_after_adding_and_has_no_final_norm(make_spec: SpecMaker) -> None:
    graph = expanded(make_spec("- {token_mixer: attention}", "residual=post"))
    assert wiring(graph) == [
        "layers.0.token_mixer <- stem",
        "layers.0.token_add <- stem layers.0.token_mixer",
        "layers.0.token_norm <- layers.0.token_add",
    ]
    assert "norm" not in graph
    assert inputs_of(graph, "head") == ["layers.0.token_norm"]


def test_a_layer_without_residual_replaces_the_stream(make_spec: SpecMaker) -> None:
    graph = expanded(make_spec("- {token_mixer: attention, residual: none}"))
    assert wiring(graph) == ["layers.0.token_norm <- stem", "layers.0.token_mixer <- layers.0.token_norm"]
    assert inputs_of(graph, "norm") == ["layers.0.token_mixer"]


def test_a_layer_overrides_norm_and_residual(make_spec: SpecMaker) -> None:
    graph = expanded(
        make_spec("- {channel_mixer: mlp, norm: layernorm, residual: post}\n- {channel_mixer: mlp}")
    )
    first, second, last = (
        graph.nodes[name]["op"] for name in ("layers.0.channel_norm", "layers.1.channel_norm", "norm")
    )
    assert (first.config.kind, first.origin) == ("layernorm", ("layers", 0, "norm"))
    assert (second.config.kind, second.origin) == ("rmsnorm", ("norm",))
    assert last.config.kind == "rmsnorm"
    assert inputs_of(graph, "layers.0.channel_norm") == ["layers.0.channel_add"]
    assert inputs_of(graph, "layers.1.channel_mixer") == ["layers.1.channel_norm"]


def test_repeats_are_numbered_flat_and_remember_where_they_stand(make_spec: SpecMaker) -> None:
    layers = """
- {channel_mixer: mlp}
- repeat: 2
  layers:
    - {token_mixer: attention}
    - repeat: 2
      layers: [{channel_mixer: swiglu}]
- {channel_mixer: mlp}
"""
    graph = expanded(make_spec(layers))
    mixers = [(op.module, op.origin) for _, op in ops(graph) if op.kind in ("token_mixer", "channel_mixer")]
    attention = ("layers", 1, "layers", 0, "token_mixer")
    swiglu = ("layers", 1, "layers", 1, "layers", 0, "channel_mixer")
    assert mixers == [
        ("layers.0.channel_mixer", ("layers", 0, "channel_mixer")),
        ("layers.1.token_mixer", attention),
        ("layers.2.channel_mixer", swiglu),
        ("layers.3.channel_mixer", swiglu),
        ("layers.4.token_mixer", attention),
        ("layers.5.channel_mixer", swiglu),
        ("layers.6.channel_mixer", swiglu),
        ("layers.7.channel_mixer", ("layers", 2, "channel_mixer")),
    ]


def test_the_turns_of_a_loop_are_nodes_on_one_module(make_spec: SpecMaker) -> None:
    layers = "- loop: 3\n  layers: [{channel_mixer: mlp}, {channel_mixer: swiglu}]\n- {channel_mixer: mlp}"
    graph = expanded(make_spec(layers))
    turns = [(name, op.module) for name, op in ops(graph) if op.kind == "channel_mixer"]
    assert turns == [
        ("layers.0.channel_mixer", "layers.0.channel_mixer"),
        ("layers.1.channel_mixer", "layers.1.channel_mixer"),
        ("layers.0.channel_mixer@2", "layers.0.channel_mixer"),
        ("layers.1.channel_mixer@2", "layers.1.channel_mixer"),
        ("layers.0.channel_mixer@3", "layers.0.channel_mixer"),
        ("layers.1.channel_mixer@3", "layers.1.channel_mixer"),
        ("layers.2.channel_mixer", "layers.2.channel_mixer"),
    ]
    assert inputs_of(graph, "layers.0.channel_norm@2") == ["layers.1.channel_add"]


def test_a_pattern_writes_one_layer_per_symbol(make_spec: SpecMaker) -> None:
    graph = expanded(make_spec('- {pattern: "A-A", symbols: {A: attention, "-": mlp}}'))
    mixers = {op.module: op.origin for _, op in ops(graph) if op.kind in ("token_mixer", "channel_mixer")}
    assert mixers == {
        "layers.0.token_mixer": ("layers", 0, "symbols", "A", "token_mixer"),
        "layers.1.channel_mixer": ("layers", 0, "symbols", "-", "channel_mixer"),
        "layers.2.token_mixer": ("layers", 0, "symbols", "A", "token_mixer"),
    }


def test_parallel_mixers_read_one_norm_and_are_joined(make_spec: SpecMaker) -> None:
    mixer = "{parallel: [attention, {kind: attention, window: 4}], combine: concat}"
    graph = expanded(make_spec(f"- {{token_mixer: {mixer}}}"))
    assert wiring(graph) == [
        "layers.0.token_norm <- stem",
        "layers.0.token_mixer.0 <- layers.0.token_norm",
        "layers.0.token_mixer.1 <- layers.0.token_norm",
        "layers.0.token_mixer.combine <- layers.0.token_mixer.0 layers.0.token_mixer.1",
        "layers.0.token_add <- stem layers.0.token_mixer.combine",
    ]
    op = graph.nodes["layers.0.token_mixer.1"]["op"]
    assert op.origin == ("layers", 0, "token_mixer", "parallel", 1)


def test_a_layer_of_two_none_mixers_vanishes_with_a_warning_that_names_its_line(make_spec: SpecMaker) -> None:
    graph = expanded(make_spec("- {channel_mixer: mlp}\n- {token_mixer: none, channel_mixer: none}"))
    assert not [name for name in graph if name.startswith("layers.1")]
    (warning,) = warnings_of(graph)
    assert (warning.path, warning.line) == ("layers[1]", 12)
    assert "does nothing" in warning.message


def test_masks_reach_token_mixers_and_pooling_heads_only(make_spec: SpecMaker) -> None:
    layers = "- {token_mixer: attention, channel_mixer: mlp}"
    graph = expanded(make_spec(layers))
    assert [name for name in graph if "stem_mask" in inputs_of(graph, name)] == ["layers.0.token_mixer"]
    pooled = expanded(make_spec(layers, "head={kind: classifier, n_classes: 3}"))
    assert inputs_of(pooled, "head") == ["norm", "stem_mask"]


FIT = """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "{schedule}"
    local: {{token_mixer: attention}}
    global: {{token_mixer: {{kind: attention, n_heads: 2}}}}
"""


def test_a_causal_fit_block_writes_shifted_latents_that_persist(make_spec: SpecMaker) -> None:
    graph = expanded(make_spec(FIT.format(schedule="(1)1(0)2(1)")))
    block = "layers.0.blocks"
    persisting = [line for line in wiring(graph, block) if "_layers" not in line.split(" <- ")[0]]
    first_global, last_global = (
        f"{block}.0.global_layers.0.token_add",
        f"{block}.1.global_layers.1.token_add",
    )
    assert persisting == [
        f"{block}.0.read_group <- layers.0.latents",
        f"{block}.0.read <- {block}.0.read_group {block}.0.local_layers.0.token_add",
        f"{block}.0.read_add <- {block}.0.read_group {block}.0.read",
        f"{block}.0.read_ungroup <- {block}.0.read_add layers.0.latents",
        f"{block}.0.shift <- {first_global}",
        f"{block}.0.write_group <- {block}.0.shift",
        f"{block}.0.write <- {block}.0.local_layers.0.token_add {block}.0.write_group",
        f"{block}.0.write_add <- {block}.0.local_layers.0.token_add {block}.0.write",
        f"{block}.1.read_group <- {first_global}",  # the latents before the shift
        f"{block}.1.read <- {block}.1.read_group {block}.0.write_add",
        f"{block}.1.read_add <- {block}.1.read_group {block}.1.read",
        f"{block}.1.read_ungroup <- {block}.1.read_add {first_global}",
        f"{block}.1.shift <- {last_global}",
        f"{block}.1.write_group <- {block}.1.shift",
        f"{block}.1.write <- {block}.0.write_add {block}.1.write_group",
        f"{block}.1.write_add <- {block}.0.write_add {block}.1.write",
    ]
    assert inputs_of(graph, "layers.0.ungroup") == [f"{block}.2.local_layers.0.token_add", "stem"]


def test_a_bidirectional_fit_block_does_not_shift(make_spec: SpecMaker) -> None:
    graph = expanded(make_spec(FIT.format(schedule="(1)1(1)"), "causal=false"))
    assert not [name for name, op in ops(graph) if op.kind == "shift"]
    assert inputs_of(graph, "layers.0.blocks.0.write_group") == [
        "layers.0.blocks.0.global_layers.0.token_add"
    ]


@pytest.mark.parametrize(
    ("schedule", "n_latents", "n_mixers", "warns"),
    [("(2)", 0, 2, False), ("(1)2", 0, 1, True), ("(1)1(1)2", 1, 3, True), ("(1)1(1)", 1, 3, False)],
)
def test_global_layers_that_nothing_reads_are_left_out_with_a_warning(
    make_spec: SpecMaker, schedule: str, n_latents: int, n_mixers: int, warns: bool
) -> None:
    graph = expanded(make_spec(FIT.format(schedule=schedule)))
    kinds = [op.kind for _, op in ops(graph)]
    assert (kinds.count("latents"), kinds.count("token_mixer")) == (n_latents, n_mixers)
    assert [w.path for w in warnings_of(graph)] == (["layers[0].fit.schedule"] if warns else [])


def test_a_spec_may_be_built_without_a_text(make_spec: SpecMaker) -> None:
    read = make_spec("- {token_mixer: none, channel_mixer: none}\n- {channel_mixer: mlp}")
    built = ModelSpec(**{name: getattr(read, name) for name in ModelSpec.model_fields})
    assert built == read
    (warning,) = warnings_of(expanded(built))
    assert (warning.path, warning.line) == ("layers[0]", None)
