"""Peak memory: by hand on a tiny graph, and against the allocator's own events on real models."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_models import Make

import compiler
from archspec.spec import ModelSpec
from compiler import CompiledModel, Graph
from compiler.cost.closed_form import CostPlan
from compiler.cost.memory import Memory, fused_bytes, output_bytes
from compiler.random_inputs import random_inputs

B, L, D, V = 2, 64, 16, 31


def memory(graph: Graph, *, batch_size: int = 1, dtype: str = "float32") -> Memory:
    return compiler.profiling.closed_profile(
        graph, seq_len=graph.graph["spec"].input.seq_len, batch_size=batch_size, dtype=dtype
    ).memory


def test_inference_peak_by_hand(make: Make) -> None:
    """Stem, norm and head: ids and their vectors live beside the norm's output, and that beside the logits."""
    graph = compiler.build_graph(make("causal: true\nlayers: [{token_mixer: none, channel_mixer: none}]"))
    stream, ids, logits = 4 * B * L * D, 8 * B * L, 4 * B * L * V
    plan = CostPlan(graph)
    sizes = output_bytes(plan, batch_size=B, item_bytes=4)
    assert (sizes["inputs"], sizes["stem"], sizes["norm"], sizes["head"]) == (ids, stream, stream, logits)
    workspace = {n: c.workspace_bytes for n, c in plan.costs(batch_size=B).items()}
    moments = [
        ids + stream + workspace["stem"],
        2 * stream + workspace["norm"],
        stream + logits + workspace["head"],
    ]
    found = memory(graph, batch_size=B)
    assert found.weights == 4 * (2 * V * D + D)
    assert found.inference_peak == found.weights + max(moments)


def test_a_residual_lives_until_it_is_added(make: Make) -> None:
    def peak(residual: str) -> int:
        text = f"causal: true\nresidual: {residual}\nnorm: layernorm\n"
        text += "layers: [{repeat: 2, layers: [{channel_mixer: {kind: mlp, d_ff: 512}}]}]"
        return memory(compiler.build_graph(make(text)), batch_size=B).inference_peak

    norm = 4 * 2 * D  # post-norm has no final norm
    assert peak("pre") == peak("none") + 4 * B * L * D + norm


def test_training_peak_has_states_gradients_and_what_is_saved(make: Make) -> None:
    wide = make(
        "causal: true\nlayers: [{channel_mixer: {kind: mlp, d_ff: 4096}}]\ninput: {kind: tokens, vocab_size: 31, seq_len: 1}"
    )
    found = memory(compiler.build_graph(wide))
    mlp = 2 * D * 4096 + 4096 + D
    assert found.train_peak == 4 * found.weights + 2 * 4 * mlp  # parameters dominate: at the update

    long = make("causal: true\nlayers: [{repeat: 8, layers: [{channel_mixer: mlp}]}]")
    found = memory(compiler.build_graph(long), batch_size=64)
    logits = 4 * 64 * L * V
    assert (
        found.train_peak == 3 * found.weights + found.activations + 4 * logits
    )  # activations do: at the loss


def test_caches_are_those_of_the_decoder(make: Make) -> None:
    spec = make(
        "causal: true\nlayers: [{token_mixer: {kind: attention, n_heads: 4, n_kv_heads: 2, d_conv: 3}},"
        " {token_mixer: {kind: attention, n_heads: 2, window: 8}}, {token_mixer: {kind: mamba2, d_head: 8}}]"
    )
    model = compiler.compile_spec(spec, gate=False)
    decoder, found = model.decoder(), memory(model.graph)

    def held(length: int) -> int:
        tokens = random_inputs(spec.input, batch_size=1, seq_len=length)
        with torch.no_grad():
            _, state = decoder.prefill(tokens, decoder.init_state(1))
        return sum(x.numel() * x.element_size() for node in state.nodes.values() for x in node.values())

    for length in (9, 30):
        assert held(length) == found.state_bytes + length * found.kv_bytes_per_token


def test_what_does_not_decode_has_no_caches(spec: ModelSpec, graph: Graph) -> None:
    found = compiler.profile(spec)
    if found.flops["decode"] is None:
        assert (found.memory.kv_bytes_per_token, found.memory.state_bytes) == (0, 0)


def test_half_the_bytes_for_half_the_width_of_a_number(graph: Graph) -> None:
    assert memory(graph, dtype="bfloat16").weights < memory(graph).weights


@pytest.mark.parametrize(
    "layer",
    ["{channel_mixer: swiglu}", "{token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}"],
    ids=["swiglu", "attention"],
)
def test_the_allocator_agrees_within_a_quarter(layer: str, make: Make) -> None:
    """Attention's own estimate of what it saves is the rougher part; weights, states and loss are exact."""
    spec = make(
        "input: {kind: tokens, vocab_size: 512, seq_len: 256}\nd_model: 64\ncausal: true\n"
        f"layers: [{{repeat: 3, layers: [{layer}]}}]"
    )
    model = compiler.compile_spec(spec, gate=False)
    found = memory(model.graph, batch_size=2)
    inputs = random_inputs(spec.input, batch_size=2, seq_len=256)
    held = found.weights + 8 * inputs.numel()
    with torch.inference_mode():
        model.eval()(inputs)
        inference = held + _allocated(lambda: model(inputs))
    training = held + _allocated(lambda: _two_steps(model, inputs))
    assert found.inference_peak == pytest.approx(inference, rel=0.25)
    assert found.train_peak == pytest.approx(training, rel=0.25)


def _two_steps(model: CompiledModel, inputs: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.train().param_groups(lr=1e-3, weight_decay=0.1))
    for _ in range(2):
        optimizer.zero_grad()
        logits = model(inputs).flatten(0, -2)
        F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
        optimizer.step()


def _allocated(run: Callable[[], object]) -> int:
    """The greatest sum of what the CPU allocator gave and took back while ``run`` ran."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def test_fused_bytes_are_weights_inputs_and_output_once(make: Make) -> None:
    graph = compiler.build_graph(make("causal: true\nlayers: [{token_mixer: attention, channel_mixer: mlp}]"))
    plan = CostPlan(graph)
    costs = plan.costs(batch_size=B)
    found = fused_bytes(plan, costs, batch_size=B, item_bytes=4)
    stream = 4 * B * L * D
    mlp = costs["layers.0.channel_mixer"]
    assert found["layers.0.channel_mixer"] == 4 * mlp.params + 2 * stream < mlp.bytes_moved
    assert found["layers.0.channel_add"] == 3 * stream == costs["layers.0.channel_add"].bytes_moved
    assert all(0 <= found[name] <= cost.bytes_moved for name, cost in costs.items())
