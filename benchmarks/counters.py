"""Who counts right, how fast, and with how much memory: ours beside six others, on five models.

    python benchmarks/counters.py [--peers DIR] [--save]

Forward FLOPs, 2 per multiply-add (counters of multiply-adds are doubled), of one sequence. ``traced`` is our
trace of a forward pass and a training step; ``fvcore`` is stock. Each counter meets each model in a process
of its own; figures are the least of the runs after a first one. Seconds are of the processor, since a busy
machine's wall clock says more of others; memory is the growth of the resident peak. A model is on the meta
device but for the first, which has weights. calflops, torchinfo and ptflops are taken from ``DIR`` (``pip
install --no-deps --target DIR calflops torchinfo ptflops``); what is missing is a row that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from record import provenance, save
from torch import Tensor, fx

import compiler
from archspec.source import load_source, parse_source
from archspec.spec import ModelSpec
from compiler.cost.closed_form import model_cost as closed_cost
from compiler.cost.closed_form import total
from compiler.cost.traced_model import trace_model
from compiler.passes.lower import lower
from zoo import load_zoo

ROOT = Path(__file__).parents[1]
GPT = """
archspec: 1
name: attention_125m
input: {kind: tokens, vocab_size: 50257, seq_len: 1024}
causal: true
d_model: 768
norm: layernorm
stem: {kind: embedding, positions: learned}
layers:
  - repeat: 12
    layers:
      - {token_mixer: {kind: attention, n_heads: 12, rope: false}, channel_mixer: {kind: mlp, d_ff: 3072}}
head: {kind: lm, tied: true}
"""
MODELS = {
    "attention 125M, 1,024 tokens, weights": None,
    "mamba2 130M": "papers/mamba2_130m.yaml",
    "hydra and attention, bidirectional": "hybrids/hydra_attention_bidirectional.yaml",
    "combiner and routing": "hybrids/local_combiner_routing.yaml",
    "8B hybrid, 131,072 tokens": "hybrids/hybrid_8b.yaml",
}
COUNTERS = ("closed form", "traced", "fvcore", "FlopCounterMode", "calflops", "torchinfo", "ptflops")
OURS = COUNTERS[:2]


def main() -> None:
    parser = argparse.ArgumentParser(description="FLOP counters side by side.")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    parser.add_argument("--peers", type=Path, help="where calflops, torchinfo and ptflops are")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "COUNTER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.append(str(arguments.peers))
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    rows = [row for model in MODELS for row in rows_of(model, arguments.peers)]
    found = {(row["model"], row["counter"]): row for row in rows}
    first, *_, last = MODELS
    stock = found[first, "fvcore"].get("cpu_s") or 0.0
    document = provenance()
    document["command"] = document["command"].replace(str(arguments.peers), "DIR")
    document |= {
        "bars": "8B: closed form under 0.010 s, traced under 1 s and 50 MB; 125M: 50x faster than fvcore",
        "closed_form_8b_s": found[last, "closed form"].get("cpu_s"),
        "traced_8b_s": found[last, "traced"].get("cpu_s"),
        "traced_8b_mb": found[last, "traced"].get("mb"),
        "closed_form_over_fvcore_125m": ratio(stock, found[first, "closed form"]),
        "traced_over_fvcore_125m": ratio(stock, found[first, "traced"]),
    }
    text = table(rows)
    print(text)
    print(json.dumps(document, indent=2))
    if arguments.save:
        save("counters", document | {"rows": rows}, text)


def ratio(stock: float, row: dict[str, Any]) -> float | None:
    return round(stock / row["cpu_s"], 1) if row.get("cpu_s") else None


def rows_of(model: str, peers: Path | None) -> list[dict[str, Any]]:
    spec = read(model)
    truth = total(closed_cost(compiler.build_graph(spec)).values()).flops
    return [row_of(model, counter, truth, peers) for counter in COUNTERS]


def row_of(model: str, counter: str, truth: int, peers: Path | None) -> dict[str, Any]:
    where = [] if peers is None else ["--peers", str(peers)]
    run = subprocess.run(
        [sys.executable, __file__, "--one", model, counter, *where],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        found = {"note": (run.stderr.strip().splitlines() or ["it died"])[-1][:80]}
    row = {"model": model, "counter": counter, "flops": None, "ratio": None, "cpu_s": None, "wall_s": None}
    row |= {"mb": None, "note": ""} | found
    if row["flops"] is not None:
        row["ratio"] = round(row["flops"] / truth, 6)
    print(f"{model} | {counter} | {row['ratio']} | {row['cpu_s']} s | {row['note']}", file=sys.stderr)
    return row


def one(model: str, counter: str) -> dict[str, Any]:
    """One counter's figures on one model, in this process; whatever it stumbles over is a note."""
    spec = read(model)
    try:
        count = counting(counter, spec, has_weights=MODELS[model] is None)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measured(count, n_runs=5 if counter in OURS else 2)
    except ImportError as error:
        return {"note": f"not installed: {error.name}"}
    except Exception as error:
        return {"note": f"fails: {type(error).__name__}: {error}"[:80]}


def counting(counter: str, spec: ModelSpec, *, has_weights: bool) -> Callable[[], int]:
    """A function that counts; the model is built before."""
    zoo = load_zoo()
    if counter == "closed form":
        return lambda: compiler.profile(spec, zoo=zoo).flops["prefill"] or 0
    graph = compiler.build_graph(spec, zoo=zoo)
    if counter == "traced":
        return lambda: trace_model(graph, zoo).total("prefill").flops
    device = "cpu" if has_weights else "meta"
    with torch.device(device):
        module: fx.GraphModule = lower(graph, zoo, seed=0).eval()
        inputs = torch.zeros(1, spec.input.seq_len, dtype=torch.long)
    return PEERS[counter](module, inputs)


def fvcore(module: fx.GraphModule, inputs: Tensor) -> Callable[[], int]:
    from fvcore.nn import FlopCountAnalysis

    def count() -> int:
        analysis = FlopCountAnalysis(module, (inputs,)).unsupported_ops_warnings(False)
        with torch.no_grad():
            return 2 * int(analysis.uncalled_modules_warnings(False).tracer_warnings("none").total())

    return count


def flop_counter_mode(module: fx.GraphModule, inputs: Tensor) -> Callable[[], int]:
    from torch.utils.flop_counter import FlopCounterMode

    def count() -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(inputs)
        return counter.get_total_flops()

    return count


class _StandIn(types.ModuleType):
    """A module in which everything is a function that says no."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., bool]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: False


def calflops(module: fx.GraphModule, inputs: Tensor) -> Callable[[], int]:
    for name in (
        "transformers",
        "accelerate",
        "accelerate.utils",
        "huggingface_hub",
        "huggingface_hub.utils",
    ):
        sys.modules.setdefault(name, _StandIn(name))  # wanted for models by name alone, not counted here
    from calflops import calculate_flops

    options = {"print_results": False, "print_detailed": False, "output_as_string": False}
    return lambda: int(calculate_flops(module, args=[inputs], **options)[0])


def torchinfo(module: fx.GraphModule, inputs: Tensor) -> Callable[[], int]:
    from torchinfo import summary

    return lambda: (
        2 * int(summary(module, input_data=(inputs,), verbose=0, device=inputs.device).total_mult_adds)
    )


def ptflops(module: fx.GraphModule, inputs: Tensor) -> Callable[[], int]:
    from ptflops import get_model_complexity_info

    def count() -> int:
        macs, _ = get_model_complexity_info(
            module, (1,), input_constructor=lambda _: {"inputs": inputs}, as_strings=False, backend="aten",
            print_per_layer_stat=False, verbose=False,
        )  # fmt: skip
        return 2 * int(macs)

    return count


PEERS: dict[str, Callable[[fx.GraphModule, Tensor], Callable[[], int]]] = {
    "fvcore": fvcore,
    "FlopCounterMode": flop_counter_mode,
    "calflops": calflops,
    "torchinfo": torchinfo,
    "ptflops": ptflops,
}


def measured(count: Callable[[], int], *, n_runs: int) -> dict[str, Any]:
    """Count once, then ``n_runs`` times by the clock."""
    flops = count()
    process = psutil.Process()
    wall, cpu, grown = [], [], []
    for _ in range(n_runs):
        Path("/proc/self/clear_refs").write_text("5")  # the resident peak begins anew
        before, at = process.memory_info().rss, (time.perf_counter(), time.process_time())
        assert count() == flops
        wall.append(time.perf_counter() - at[0])
        cpu.append(time.process_time() - at[1])
        grown.append(resident_peak() - before)
    return {
        "flops": flops, "cpu_s": round(min(cpu), 4), "wall_s": round(min(wall), 4),
        "mb": round(max(0, min(grown)) / 1e6, 1),
    }  # fmt: skip


def resident_peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def read(model: str) -> ModelSpec:
    path = MODELS[model]
    source = parse_source(GPT) if path is None else load_source(ROOT / "specs" / path)
    return compiler.resolve(source, load_zoo())


def table(rows: list[dict[str, Any]]) -> str:
    keys = ("model", "counter", "flops", "ratio", "cpu_s", "wall_s", "mb", "note")
    lines = [" | ".join(keys), " | ".join("---" for _ in keys)]
    return "\n".join(lines + [" | ".join(str(row[key]) for key in keys) for row in rows])


if __name__ == "__main__":
    main()
