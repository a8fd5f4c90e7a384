"""Traced peak memory against the CPU allocator's own events, for ten models of different families.

    python benchmarks/memory.py [--save]

Truth are the allocations of two real training steps on random data (``torch.profiler``,
``profile_memory``), or of a forward pass without gradients; ours is ``compiler.cost.step_memory``, which
allocates nothing. The bar is 0.1 % for training in float32, with and without checkpoints. ``--save`` writes
into benchmarks/results/.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from record import provenance, save

import compiler
from archspec.source import parse_source
from compiler.cost.allocator import measured_inference_peak, measured_train_peak
from compiler.cost.step_memory import step_memory
from compiler.cost.traced_model import trace_model
from compiler.cost.training_step import Step
from zoo import load_zoo

BATCH, LENGTH = 4, 256
MLP = ", channel_mixer: mlp"
FIT = """fit: {n_groups: 4, n_latents: 8, d_latent: 64, schedule: "(1)2(1)1(1)", positions: learned,
      local: {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp},
      global: {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}}"""
TOKENS = "{kind: tokens, vocab_size: 512, seq_len: 256}"
IMAGE = (
    "{kind: image, height: 64, width: 64, n_channels: 3}\nstem: {kind: patch, size: 4, positions: learned}"
)
ATTENTION, MATRIX = "token_mixer: {kind: attention, n_heads: 4", "token_mixer: {kind: matrix, d_head: 32"
FAMILIES = {
    "attention, tied head": (
        True,
        ATTENTION + ", n_kv_heads: 2}, channel_mixer: swiglu",
        "{kind: lm, tied: true}",
    ),
    "window, convolution": (True, ATTENTION + ", window: 64, d_conv: 4}" + MLP, "lm"),
    "mamba2": (True, "token_mixer: {kind: mamba2, d_head: 32, d_state: 16, chunk_size: 64}", "lm"),
    "hydra": (
        False,
        "token_mixer: {kind: hydra, d_head: 32, d_state: 16, chunk_size: 64}" + MLP,
        "masked_lm",
    ),
    "combiner": (True, "token_mixer: {kind: combiner, n_heads: 4, span: 16}" + MLP, "lm"),
    "routing": (
        True,
        "token_mixer: {kind: routing, n_heads: 4, n_clusters: 4, window: 32, cluster_window: 32}" + MLP,
        "lm",
    ),
    "toeplitz (FFT)": (False, MATRIX + ", structure: toeplitz, max_len: 256}", "masked_lm"),
    "cauchy (rows formed again)": (
        False,
        MATRIX + ", structure: cauchy, d_qk: 4, max_len: 256}",
        "masked_lm",
    ),
    "vision transformer": (False, ATTENTION + ", rope: false}" + MLP, "{kind: classifier, n_classes: 10}"),
    "fit": (True, FIT, "lm"),
}
STEPS = {
    "AdamW": Step(),
    "AdamW, checkpoints": Step(checkpointing=True),
    "foreach": Step("adamw_foreach"),
    "SGD, 2 micro-batches": Step("sgd", micro_batches=2),
    "autocast": Step(autocast=True),
    "autocast, checkpoints": Step(autocast=True, checkpointing=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Traced peaks against the allocator's.")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = [row for name in FAMILIES for row in measured(name)]
    float32 = [row for row in rows if row["step"] != "inference" and "autocast" not in row["step"]]
    worst = max(abs(row["error_percent"]) for row in float32)
    document = provenance() | {
        "batch_size": BATCH,
        "seq_len": LENGTH,
        "bar": "0.1 % in float32 training",
        "worst_float32_training_percent": worst,
        "bar_met": worst <= 0.1,
    }
    text = table(rows)
    print(text)
    print(f"worst in float32 training: {worst:.4f} %, the bar is 0.1 %")
    if arguments.save:
        save("memory", document | {"rows": rows}, text)


def measured(name: str) -> list[dict[str, Any]]:
    """One model's rows: each kind of step, and a forward pass."""
    zoo = load_zoo()
    spec = compiler.resolve(parse_source(text_of(name)), zoo)
    graph = compiler.build_graph(spec, zoo=zoo)
    at = {"batch_size": BATCH, "seq_len": spec.input.seq_len}
    rows = []
    for label, step in STEPS.items():
        start = time.process_time()
        said = step_memory(trace_model(graph, zoo, batch_size=BATCH, step=step), step)
        seconds = time.process_time() - start
        model = compiler.compile_spec(spec, gate=False, zoo=zoo)
        rows.append(row(name, label, said.train_peak, measured_train_peak(model, step, **at), seconds))
        if label == "AdamW":
            peak = measured_inference_peak(model, **at)
            rows.append(row(name, "inference", said.inference_peak, peak, seconds))
    return rows


def text_of(name: str) -> str:
    causal, layer, head = FAMILIES[name]
    layers = f"  - {layer}" if layer.startswith("fit") else f"  - repeat: 4\n    layers: [{{{layer}}}]"
    return (
        f"archspec: 1\nname: memory\nd_model: 128\ncausal: {str(causal).lower()}\n"
        f"layers:\n{layers}\nhead: {head}\n"
        + (f"input: {IMAGE}\n" if name.startswith("vision") else f"input: {TOKENS}\nstem: embedding\n")
    )


def row(name: str, step: str, traced: int, allocator: int, seconds: float) -> dict[str, Any]:
    return {
        "model": name,
        "step": step,
        "traced_mb": round(traced / 1e6, 3),
        "allocator_mb": round(allocator / 1e6, 3),
        "error_percent": round(100 * (traced / allocator - 1), 4),
        "trace_cpu_s": round(seconds, 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    return "\n".join(lines + [" | ".join(str(value) for value in row.values()) for row in rows])


if __name__ == "__main__":
    main()
