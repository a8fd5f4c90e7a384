"""The traced count of whole models: equal to the closed form node by node, and to itself without shortcuts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from small_models import Make
from torch import Tensor

import compiler
from archspec import Capabilities, Cost, CostContext, MixerConfig, Site, SpecError
from archspec.spec import ModelSpec
from compiler import Graph
from compiler.cost.closed_form import CostPlan
from compiler.cost.condensed import condense
from compiler.cost.traced_model import trace_model
from zoo import Zoo
from zoo.contract import Mixer

ROOT = Path(__file__).parents[3]
SPECS = sorted([*ROOT.glob("specs/papers/*.yaml"), *ROOT.glob("specs/hybrids/*.yaml")])


def assert_equal(graph: Graph, zoo: Zoo, *, seq_len: int, batch_size: int = 1) -> None:
    plan = CostPlan(graph, seq_len)
    prefill, train = (plan.costs(batch_size=batch_size, phase=p) for p in ("prefill", "train"))
    traced = trace_model(graph, zoo, seq_len=seq_len, batch_size=batch_size)
    found = {n: (w.prefill.flops, w.train.flops, w.backward.flops) for n, w in traced.work.items()}
    assert found == {n: (prefill[n].flops, train[n].flops, train[n].flops_backward) for n in found}
    assert traced.total("backward").flops == sum(cost.flops_backward for cost in train.values())


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_shipped_spec_at_full_length(path: Path, zoo: Zoo) -> None:
    spec = compiler.load_spec(path)
    assert_equal(compiler.build_graph(spec, zoo=zoo), zoo, seq_len=spec.input.seq_len)


def test_small_models_at_shorter_lengths_and_in_batches(spec: ModelSpec, graph: Graph, zoo: Zoo) -> None:
    for seq_len in (spec.input.seq_len,) if spec.input.kind == "image" else (64, 48):
        assert_equal(graph, zoo, seq_len=seq_len, batch_size=3)


DEEP = """
causal: true
layers:
  - {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}
  - repeat: 3
    layers:
      - {token_mixer: {kind: mamba2, d_head: 8, d_state: 4, chunk_size: 16}}
      - {token_mixer: {kind: routing, n_heads: 2, n_clusters: 2}, channel_mixer: mlp}
      - repeat: 2
        layers: [{token_mixer: {kind: attention, n_heads: 4, n_kv_heads: 2, window: 8}, channel_mixer: swiglu}]
  - {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}
head: {kind: lm, tied: true}
"""


def test_one_layer_of_every_kind_stands_for_all(make: Make, zoo: Zoo) -> None:
    """Exact but for the auxiliary losses' scalars, of which one is alive or another."""
    graph = compiler.build_graph(make(DEEP), zoo=zoo)
    small = condense(graph)
    assert len(small.layers) == 14
    assert len({layer.represented_by for layer in small.layers}) == 4
    condensed = trace_model(graph, zoo, batch_size=2)
    whole = trace_model(graph, zoo, batch_size=2, whole=True)
    assert (condensed.n_layers_traced, whole.n_layers_traced) == (4, 14)
    assert condensed.work == whole.work
    assert condensed.held == whole.held
    assert [*map(sorted, condensed.parameter_groups)] == [*map(sorted, whole.parameter_groups)]
    for name in ("prefill", "forward", "backward"):
        one, other = getattr(condensed, name), getattr(whole, name)
        assert one.end == other.end, name
        assert abs(one.peak - other.peak) <= 4, name


def test_small_models_have_the_memory_of_the_whole(graph: Graph, zoo: Zoo) -> None:
    one, other = trace_model(graph, zoo), trace_model(graph, zoo, whole=True)
    assert (one.prefill, one.forward, one.backward) == (other.prefill, other.forward, other.backward)


def test_turns_of_a_loop_are_all_traced(make: Make, zoo: Zoo) -> None:
    text = "causal: true\nlayers: [{loop: 3, layers: [{token_mixer: {kind: attention, n_heads: 2}}]}]"
    graph = compiler.build_graph(make(text), zoo=zoo)
    assert condense(graph).graph is graph
    turns = [w for n, w in trace_model(graph, zoo).work.items() if n.startswith("layers.0.token_mixer")]
    assert len(turns) == 3
    assert turns[0].backward.flops == turns[2].backward.flops > 0


def test_gradients_end_as_large_as_the_weights(make: Make, zoo: Zoo) -> None:
    graph = compiler.build_graph(make(DEEP), zoo=zoo)
    traced = trace_model(graph, zoo)
    assert traced.backward.end == 4 * sum(map(sum, traced.parameter_groups))
    assert traced.prefill.end == 0


class Solve(Mixer):
    """Solves a system per token: an operation that no table knows."""

    class Config(MixerConfig):
        kind: Literal["solve"] = "solve"

        def cost(self, ctx: CostContext) -> Cost:
            return Cost()

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

    def __init__(self, config: MixerConfig, site: Site):
        super().__init__(config, site)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        eye = torch.eye(x.shape[-1], device=x.device)
        return torch.linalg.solve(eye, x.mT).mT

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


class PricedSolve(Solve):
    op_flops = {
        "aten::_linalg_solve_ex": lambda args, kwargs, out: 7,
        "aten::linalg_lu_solve": lambda args, kwargs, out: 5,
        "aten::_linalg_check_errors": lambda args, kwargs, out: 0,
    }


def model_of(mixer: type[Solve], make: Make, zoo: Zoo) -> tuple[Graph, Zoo]:
    spec = make(
        "causal: true\nlayers:\n  - {token_mixer: {kind: attention, n_heads: 2}}\n  - {channel_mixer: mlp}"
    )
    layer = spec.layers[1].model_copy(update={"channel_mixer": mixer.Config()})
    spec = spec.model_copy(update={"layers": (spec.layers[0], layer)})
    classes = {role: dict(table) for role, table in zoo.classes.items()}
    classes["channel_mixer"]["solve"] = mixer
    zoo = Zoo(classes)
    return compiler.build_graph(spec, zoo=zoo), zoo


def test_an_unknown_operation_is_refused_with_what_to_write(make: Make, zoo: Zoo) -> None:
    with pytest.raises(SpecError) as caught:
        trace_model(*model_of(Solve, make, zoo))
    (problem,) = caught.value.problems
    assert "aten::_linalg_solve_ex" in problem.message
    assert problem.message.startswith("layers.1.channel_mixer ('solve')")
    assert problem.path == "layers[1].channel_mixer"
    assert problem.hint is not None
    assert "op_flops = {'aten::_linalg_solve_ex'" in problem.hint


def test_a_component_may_price_its_own_operations(make: Make, zoo: Zoo) -> None:
    found = trace_model(*model_of(PricedSolve, make, zoo)).work["layers.1.channel_mixer"]
    assert (found.prefill.flops, found.backward.flops) == (7, 5)
