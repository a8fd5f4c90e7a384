"""The closed form of a whole model: equal to the trace, additive, without a tensor, parameters once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import MODELS, Make
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import compiler
from archspec import Cost, SpecError
from archspec.spec import ModelSpec
from compiler import Graph
from compiler.cost.closed_form import CostPlan, model_cost, total
from compiler.cost.fvcore_check import count_macs, count_parameters
from compiler.profiling import closed_profile
from compiler.random_inputs import random_inputs
from zoo import Zoo

SEQ_LENS = (64, 48, 16)  # the longest; FIT's groups of 16 are full


@pytest.mark.parametrize("batch_size", [1, 3])
def test_flops_and_parameters_are_those_of_the_built_model(
    spec: ModelSpec, graph: Graph, zoo: Zoo, batch_size: int
) -> None:
    module = compiler.compile_spec(spec, gate=False, zoo=zoo).module.eval()
    for seq_len in (spec.input.seq_len,) if spec.input.kind == "image" else SEQ_LENS:
        whole = total(model_cost(graph, batch_size=batch_size, seq_len=seq_len).values())
        inputs = random_inputs(spec.input, batch_size=batch_size, seq_len=seq_len)
        counted = count_macs(module, (inputs,))
        assert (whole.flops, counted.unknown_ops) == (2 * counted.macs, ())
        assert whole.params == count_parameters(module)


def test_every_row_is_the_trace_of_its_module(spec: ModelSpec, graph: Graph, zoo: Zoo) -> None:
    """A wrong row cannot hide behind another: fvcore's count by module against ours by node."""
    from fvcore.nn import FlopCountAnalysis

    from compiler.cost import fvcore_handles

    module = compiler.compile_spec(spec, gate=False, zoo=zoo).module.eval()
    inputs = random_inputs(spec.input, batch_size=1, seq_len=spec.input.seq_len)
    analysis = FlopCountAnalysis(module, (inputs,))
    analysis.clear_op_handles().set_op_handle(**fvcore_handles())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    counted = analysis.by_module()
    ours: dict[str, int] = {}
    for name, cost in model_cost(graph).items():
        path = graph.nodes[name]["op"].module
        if path is not None:
            ours[path] = ours.get(path, 0) + cost.flops
    assert {path: 2 * counted[path] for path in ours} == ours


def test_decoding_is_one_traced_step(make: Make, zoo: Zoo) -> None:
    spec = make(
        "causal: true\nlayers: [{token_mixer: {kind: mamba2, d_head: 8}, channel_mixer: mlp},"
        " {token_mixer: {kind: attention, n_heads: 2, window: 8}},"
        " {token_mixer: {kind: attention, n_heads: 2}}]"
    )
    model = compiler.compile_spec(spec, gate=False, zoo=zoo).eval()
    decoder = model.decoder()

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = model.module  # the tracer wants to know them

        def forward(self, token: torch.Tensor) -> torch.Tensor:
            return decoder.step(token, state)[0]

    for context_len in (1, 7, 20):
        tokens = random_inputs(spec.input, batch_size=2, seq_len=context_len + 1)
        with torch.no_grad():
            _, state = decoder.prefill(tokens[:, :-1], decoder.init_state(2))
        costs = model_cost(model.graph, batch_size=2, phase="decode", context_len=context_len)
        assert total(costs.values()).flops == 2 * count_macs(Step(), (tokens[:, -1],)).macs


def test_lengths_at_every_node_are_those_of_the_graph(graph: Graph) -> None:
    for name, extent in CostPlan(graph).extents.items():
        stream = graph.nodes[name]["op"].stream
        if stream.name != "mask":  # masks cost nothing, and are not followed
            assert (extent.length, extent.fold) == (stream.length, stream.fold), name


def test_a_short_input_fills_fewer_groups(make: Make) -> None:
    plan = CostPlan(compiler.build_graph(make(MODELS["fit_decoder"])), 40)  # groups of 16
    extents = {name: (e.length, e.fold) for name, e in plan.extents.items()}
    assert extents["layers.0.group"] == (16, 3)
    assert extents["layers.0.latents"] == (6, 1)
    assert extents["layers.0.blocks.0.write_group"] == (2, 3)
    assert extents["layers.0.ungroup"] == (40, 1)


def test_turns_of_a_loop_cost_flops_each_and_parameters_once(make: Make) -> None:
    layer = "layers: [{%s: %d, layers: [{token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}]}]"
    one, tied, untied = (
        total(model_cost(compiler.build_graph(make("causal: true\n" + layer % case))).values())
        for case in (("loop", 1), ("loop", 3), ("repeat", 3))
    )
    assert tied.params == one.params < untied.params
    assert tied.flops == untied.flops > one.flops
    assert tied.kv_bytes_per_token == 3 * one.kv_bytes_per_token  # each turn keeps its own


@settings(max_examples=20, deadline=None)
@given(n_layers=st.integers(1, 40), seq_len=st.integers(1, 64), batch_size=st.integers(1, 9))
def test_cost_is_affine_in_depth(n_layers: int, seq_len: int, batch_size: int, make: Make) -> None:
    def cost(n: int) -> Cost:
        layer = "{token_mixer: {kind: attention, n_heads: 2}}"
        spec = make(f"causal: true\nlayers: [{{repeat: {n}, layers: [{layer}]}}]")
        graph = compiler.build_graph(spec)
        return total(model_cost(graph, batch_size=batch_size, seq_len=seq_len).values())

    one, two, many = cost(1), cost(2), cost(n_layers)
    for name in ("params", "flops", "flops_needed", "flops_elementwise", "activation_bytes", "bytes_moved"):
        a, b, c = (getattr(x, name) for x in (one, two, many))
        assert c == a + (n_layers - 1) * (b - a), name


def test_total_is_the_sum(graph: Graph) -> None:
    costs = list(model_cost(graph, phase="train").values())
    summed = Cost()
    for cost in costs:
        summed += cost
    assert total(costs) == summed


def test_no_tensor_is_made(graph: Graph) -> None:
    class Forbid(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError(f"{func} was called")

    with Forbid():
        closed_profile(graph, seq_len=graph.graph["spec"].input.seq_len, batch_size=2, dtype="bfloat16")
    with pytest.raises(AssertionError), Forbid():
        torch.zeros(1)


def test_lengths_that_the_stem_cannot_take_are_refused(make: Make) -> None:
    with pytest.raises(SpecError, match="images always have 128 pixels"):
        CostPlan(compiler.build_graph(make(MODELS["images"])), 64)
