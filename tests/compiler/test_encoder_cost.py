"""What a model with an encoder costs: both lengths, the encoder once, what a decoder's layers remember of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
from encoder_cases import HEAD, LAYERS, SOURCE, TARGET

import compiler
from archspec import Cost, Phase, SpecError
from archspec.spec import ModelSpec
from compiler import build_graph, compile_spec
from compiler.cost.closed_form import CostPlan, model_cost, total
from compiler.cost.memory import output_bytes
from compiler.device.blocks import decompose
from compiler.device.model_latency import measure_model
from compiler.profile_view import render
from zoo import Zoo

SpecMaker = Callable[..., ModelSpec]


@pytest.fixture
def spec(make_spec: SpecMaker) -> ModelSpec:
    return make_spec(LAYERS, head=HEAD)


def test_fvcore_agrees_part_by_part_and_whole(spec: ModelSpec) -> None:
    verify = compiler.profile(spec, verify=True).verify
    assert verify is not None
    assert verify.exact is True
    assert {"layers.0.cross", "layers.1.cross"} <= {c.path for c in verify.checks if c.phase == "decode"}
    assert {check.kind for check in verify.checks} >= {"model", "routing", "attention"}


def cost(spec: ModelSpec, **asked: object) -> Cost:
    return total(model_cost(build_graph(spec), **asked).values())  # type: ignore[arg-type]


def test_both_lengths_are_asked(make_spec: SpecMaker) -> None:
    """Full attention everywhere: the encoder goes with N^2, the decoder with M^2, cross with M N."""
    layers = "- {token_mixer: attention, cross: attention}"
    spec = make_spec(layers, "encoder.layers=[{token_mixer: attention}]", head=HEAD)

    def formula(M: int, N: int) -> int:
        own = lambda L, d: 2 * (4 * L * d * d + 2 * L * L * d)  # noqa: E731
        cross = 2 * (2 * M * 16 * 16 + 2 * N * 24 * 16 + 2 * M * N * 16)
        return own(N, 24) + own(M, 16) + cross + 2 * M * 16 * 31

    for M, N in ((24, 40), (5, 40), (24, 3)):
        assert cost(spec, seq_len=M, source_len=N).flops == formula(M, N)
    assert cost(spec).flops == formula(24, 40)
    profile = compiler.profile(spec, source_len=3)
    assert profile.flops["prefill"] == formula(24, 3)
    assert profile.as_json()["source_len"] == 3
    assert render(profile)
    with pytest.raises(SpecError, match=r"source_len 41 is not in 1\.\.40"):
        compiler.profile(spec, source_len=41)
    with pytest.raises(SpecError, match="has no encoder"):
        compiler.profile(make_spec("- {token_mixer: attention}"), source_len=3)


def test_a_step_costs_nothing_of_the_encoder_and_remembers_the_source(spec: ModelSpec) -> None:
    plan = CostPlan(build_graph(spec), source_len=30)
    costs = plan.costs(phase="decode", context_len=20)
    idle = [cost for name, cost in costs.items() if plan.of_encoder(name)]
    assert idle
    assert not any(cost.flops or cost.flops_elementwise or cost.bytes_moved for cost in idle)
    assert sum(c.params for c in costs.values()) == sum(
        p.numel() for p in compile_spec(spec, gate=False).parameters()
    )
    model = compile_spec(spec, gate=False).eval()
    decoder = model.decoder()
    _, state = decoder.prefill(TARGET[:1, :20], decoder.init_state(1, SOURCE[:1, :30]))
    for name, held in state.nodes.items():
        said = costs[name].state_bytes + 20 * costs[name].kv_bytes_per_token
        assert said == sum(t.numel() * t.element_size() for t in held.values()), name


def test_memory_counts_both_inputs(spec: ModelSpec) -> None:
    """Ids of 8 bytes on both sides, two widths; a shorter source takes less, in the pass and to remember."""
    sizes = output_bytes(CostPlan(build_graph(spec)), batch_size=2, item_bytes=4)
    assert (sizes["source"], sizes["inputs"]) == (8 * 2 * 40, 8 * 2 * 24)
    assert (sizes["encoder.stem"], sizes["stem"]) == (4 * 2 * 40 * 24, 4 * 2 * 24 * 16)
    profile = compiler.profile(spec, batch_size=2)
    assert profile.memory.weights == 4 * profile.params + sum(row.cost.buffer_bytes for row in profile.rows)
    assert profile.memory.inference_peak > profile.memory.weights + 2 * 8 * (24 + 40)
    longer = compiler.profile(spec, batch_size=2, source_len=4)
    assert longer.memory.inference_peak < profile.memory.inference_peak
    assert longer.memory.state_bytes < profile.memory.state_bytes


def test_every_phase_is_measured(spec: ModelSpec) -> None:
    model = compile_spec(spec, gate=False)
    for phase in get_args(Phase):
        found = measure_model(model, phase=phase, min_runs=3, min_seconds=0.0, max_seconds=1.0)
        assert found.n >= 3


def test_blocks_do_not_predict_it(spec: ModelSpec, zoo: Zoo) -> None:
    with pytest.raises(SpecError, match="an encoder is not predicted from blocks"):
        decompose(spec, zoo)
