"""Traced peaks against the CPU allocator's own events: small models of different families, every kind of step."""

from __future__ import annotations

import pytest
import torch
from small_models import Make

import compiler
from compiler.cost.allocator import measured_inference_peak, measured_train_peak, peak_of
from compiler.cost.step_memory import StepMemory, optimizer_memory, step_memory
from compiler.cost.traced_model import trace_model
from compiler.cost.training_step import Step
from zoo import Zoo

TOLERANCE = 1e-3
BATCH = 3
_HEAD = "\ncausal: {causal}\nlayers:\n  - repeat: 3\n    layers:\n      - {layer}\nhead: {head}"
FAMILIES = {
    "attention_tied": (
        "{token_mixer: {kind: attention, n_heads: 4, n_kv_heads: 2}, channel_mixer: swiglu}", "{kind: lm, tied: true}",
    ),
    "window_and_conv": ("{token_mixer: {kind: attention, n_heads: 2, window: 32, d_conv: 4}, channel_mixer: mlp}", "lm"),
    "mamba2": ("{token_mixer: {kind: mamba2, d_head: 16, d_state: 8, chunk_size: 32}}", "lm"),
    "routing": (
        "{token_mixer: {kind: routing, n_heads: 4, n_clusters: 4, window: 16, cluster_window: 16}, channel_mixer: mlp}",
        "lm",
    ),
    "rows_formed_again": (
        "{token_mixer: {kind: matrix, structure: cauchy, d_head: 16, d_qk: 2, max_len: 128}}", "masked_lm",
    ),
}  # fmt: skip
STEPS = {
    "adamw": Step(),
    "checkpointed": Step(checkpointing=True),
    "foreach_checkpointed": Step("adamw_foreach", checkpointing=True),
    "sgd_micro_batches": Step("sgd", micro_batches=2),
}


def model(family: str, make: Make) -> compiler.CompiledModel:
    layer, head = FAMILIES[family]
    causal = "false" if head == "masked_lm" else "true"
    text = "input: {kind: tokens, vocab_size: 128, seq_len: 128}\nd_model: 64"
    text += _HEAD.replace("{causal}", causal).replace("{layer}", layer).replace("{head}", head)
    return compiler.compile_spec(make(text), gate=False)


def traced(model: compiler.CompiledModel, step: Step, zoo: Zoo) -> StepMemory:
    return step_memory(trace_model(model.graph, zoo, batch_size=BATCH, step=step), step)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_training_peak_is_the_allocators(family: str, step: str, make: Make, zoo: Zoo) -> None:
    built = model(family, make)
    said = traced(built, STEPS[step], zoo).train_peak
    measured = measured_train_peak(built, STEPS[step], batch_size=BATCH, seq_len=128)
    assert said == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_inference_peak_is_the_allocators(family: str, make: Make, zoo: Zoo) -> None:
    """Within 1 %: without gradients the peak may fall into a convolution, whose kernel has scratch memory."""
    built = model(family, make)
    said = traced(built, Step(), zoo).inference_peak
    assert said == pytest.approx(measured_inference_peak(built, batch_size=BATCH, seq_len=128), rel=0.01)


def test_autocast_keeps_half_as_much(make: Make, zoo: Zoo) -> None:
    """Within 2 %: kernels for bfloat16 take scratch memory that no trace sees."""
    built = model("attention_tied", make)
    step = Step(autocast=True)
    said = traced(built, step, zoo)
    assert said.kept_for_backward < 0.7 * traced(built, Step(), zoo).kept_for_backward
    measured = measured_train_peak(built, step, batch_size=BATCH, seq_len=128)
    assert said.train_peak == pytest.approx(measured, rel=0.02)


def test_parts_of_a_step_add_up(make: Make, zoo: Zoo) -> None:
    built = model("mamba2", make)
    found = traced(built, Step(), zoo)
    n_bytes = sum(p.nbytes for p in built.parameters())
    n_weights = len(list(built.parameters()))
    assert (found.weights, found.gradients) == (n_bytes, n_bytes)
    assert found.optimizer_states == 2 * n_bytes + 4 * n_weights  # two moments, and a step counter each
    assert found.inputs == 2 * 8 * BATCH * 128
    assert found.as_json()["train_peak"] == max(found.forward_peak, found.backward_peak, found.optimizer_peak)


def test_an_optimizer_in_groups_needs_more_at_once() -> None:
    one, all_ = (optimizer_memory([[1000] * 8], name) for name in ("adamw", "adamw_foreach"))
    assert one[0] == all_[0] == 8 * (2 * 4000 + 4)
    assert one[1] == 2 * 4000
    assert all_[1] >= 8 * 4000


def test_the_allocators_account_sees_what_goes_too() -> None:
    def run() -> None:
        for _ in range(3):
            torch.empty(1000)

    assert peak_of(run) == 4000
