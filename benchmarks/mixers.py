"""Mixers beside softmax attention: whole layers, and mixing cores without projections.

    python benchmarks/mixers.py [--threads 1,all] [--lengths 512,1024,...] [--rounds 5] [--save]

Every case of a length is run once per round, one after the other, so that noise hits all alike; the first
round is thrown away. Ratios are medians of the rounds' paired ratios to the attention core (or layer) of the
same direction, with the 90 % interval of a bootstrap. Growth is the slope of log time over log length from
2048 on. Memory is what one forward and backward pass holds at its peak beyond its inputs, by the
allocator's events.

glibc gives tensors over 32 MB back to the system and clears fresh pages at the next use, which looks like
growth of the mixers; ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184`` before the command keeps them.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from paired import Ratio
from peak import peak_bytes
from record import provenance, save
from torch import Tensor, nn

from archspec import Site
from zoo import load_zoo
from zoo.contract import only_output
from zoo.ops.combiner_fixed import fixed_attention
from zoo.ops.quasiseparable import OneWay, quasiseparable
from zoo.ops.routing import causal_routing
from zoo.ops.ssd import ssd

N_HEADS, D_HEAD, D_STATE = 8, 64, 64
D_MODEL = N_HEADS * D_HEAD
SPAN = WINDOW = CHUNK = 64
Run = Callable[[], Tensor]
LAYERS: dict[str, tuple[bool, dict[str, Any]]] = {
    "attention causal": (True, {"kind": "attention", "n_heads": N_HEADS}),
    "attention both ways": (False, {"kind": "attention", "n_heads": N_HEADS}),
    "mamba2": (True, {"kind": "mamba2", "d_state": D_STATE}),
    "hydra": (False, {"kind": "hydra", "d_state": D_STATE}),
    "combiner": (True, {"kind": "combiner", "n_heads": N_HEADS, "span": SPAN}),
    "routing": (True, {"kind": "routing", "n_heads": N_HEADS, "n_routed_heads": N_HEADS // 2,
                       "cluster_window": WINDOW, "window": WINDOW}),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", default="1,all")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192")
    parser.add_argument("--rounds", type=int, default=5, help="counted ones, after one that is not")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    arguments = parser.parse_args()
    lengths = [int(word) for word in arguments.lengths.split(",")]
    rows: list[dict[str, Any]] = []
    for word in arguments.threads.split(","):
        torch.set_num_threads((os.cpu_count() or 1) if word == "all" else int(word))
        for part in ("core", "layer"):
            for phase in ("forward", "forward+backward"):
                for length in lengths:
                    print(f"{word} threads, {part}, {phase}, {length}", file=sys.stderr)
                    rows += measured(part, phase, length, arguments.rounds, threads=word)
    document = {**provenance(), "d_model": D_MODEL, "n_heads": N_HEADS, "rows": rows, "growth": growth(rows)}
    text = table(rows, document["growth"])
    print(text)
    if arguments.save:
        save("mixers", document, text)


def measured(part: str, phase: str, length: int, n_rounds: int, *, threads: str) -> Iterator[dict[str, Any]]:
    """One row for each case of a length."""
    torch.manual_seed(0)
    cases = cores(length) if part == "core" else layers(length)
    once = forward if phase == "forward" else forward_backward
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(n_rounds + 1):
        for name, (_, run) in cases.items():
            start = time.perf_counter()
            once(run)
            seconds[name].append(time.perf_counter() - start)
    for name, (is_causal, run) in cases.items():
        beside = "attention causal" if is_causal else "attention both ways"
        ratio = Ratio.of(seconds[name][1:], seconds[beside][1:], share=0.9)
        yield {
            "threads": threads, "part": part, "phase": phase, "length": length, "case": name,
            "ms": round(1e3 * statistics.median(seconds[name][1:]), 2),
            "ratio": round(ratio.value, 4), "low": round(ratio.low, 4), "high": round(ratio.high, 4),
            "peak_mib": round(peak_bytes(partial(once, run), torch.device("cpu")) / 2**20, 1),
        }  # fmt: skip


def cores(length: int) -> dict[str, tuple[bool, Run]]:
    """Mixing alone: the same heads and widths for all."""

    def random_(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    q, k, v = (random_(1, N_HEADS, length, D_HEAD) for _ in range(3))
    x, dt_raw = random_(1, length, N_HEADS, D_HEAD), random_(1, length, 2, N_HEADS)
    b, c, b_back, c_back = (random_(1, length, 1, D_STATE) for _ in range(4))
    centroids = torch.randn(N_HEADS, max(1, length // WINDOW), D_HEAD)

    def both_ways() -> Tensor:
        dt = F.softplus(dt_raw - 3)
        ahead, back = (
            OneWay(-dt[:, :, 0], dt[:, :, 0], b, c),
            OneWay(-dt[:, :, 1], dt[:, :, 1], b_back, c_back),
        )
        return quasiseparable(x, ahead, back, chunk_size=CHUNK)

    return {
        "attention causal": (True, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        "attention both ways": (False, lambda: F.scaled_dot_product_attention(q, k, v)),
        "mamba2": (True, lambda: ssd(x, -F.softplus(dt_raw[:, :, 0] - 3), b, c, chunk_size=CHUNK)[0]),
        "hydra": (False, both_ways),
        "combiner": (True, lambda: fixed_attention(q, k, v, span=SPAN, causal=True)),
        "routing": (True, lambda: causal_routing(q, k, v, centroids, window=WINDOW)),
    }


def layers(length: int) -> dict[str, tuple[bool, Run]]:
    """Whole token mixers with their projections."""
    zoo = load_zoo()
    x = torch.randn(1, length, D_MODEL, requires_grad=True)

    def run_of(mixer: nn.Module) -> Run:
        def run() -> Tensor:
            return only_output(mixer(x))

        return run

    cases = {}
    for name, (is_causal, fields) in LAYERS.items():
        more = {"n_clusters": max(1, length // WINDOW)} if fields["kind"] == "routing" else {}
        cls = zoo.classes["token_mixer"][fields["kind"]]
        config = cls.Config.model_validate(fields | more)
        cases[name] = is_causal, run_of(cls(config, Site(D_MODEL, length, is_causal)))  # type: ignore[call-arg]
    return cases


def forward(run: Run) -> None:
    with torch.no_grad():
        run()


def forward_backward(run: Run) -> None:
    run().sum().backward()  # type: ignore[no-untyped-call]


def growth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponent of L in the time from 2048 on, by least squares on logarithms."""
    found = []
    for key in dict.fromkeys((r["threads"], r["part"], r["phase"], r["case"]) for r in rows):
        points = [
            (math.log(r["length"]), math.log(r["ms"]))
            for r in rows
            if (r["threads"], r["part"], r["phase"], r["case"]) == key and r["length"] >= 2048
        ]
        if len(points) > 1:
            slope = statistics.linear_regression(*zip(*points)).slope
            found.append(
                {**dict(zip(("threads", "part", "phase", "case"), key)), "exponent": round(slope, 3)}
            )
    return found


def table(rows: list[dict[str, Any]], exponents: list[dict[str, Any]]) -> str:
    """Both as Markdown."""
    lines = ["| threads | part | phase | L | case | ms | ratio | 90 % | peak MiB |", "|---" * 9 + "|"]
    lines += [
        f"| {r['threads']} | {r['part']} | {r['phase']} | {r['length']} | {r['case']} | {r['ms']:.1f} | "
        f"{r['ratio']:.3f} | {r['low']:.3f} to {r['high']:.3f} | {r['peak_mib']:.1f} |"
        for r in rows
    ]
    lines += ["", "| threads | part | phase | case | L^ |", "|---" * 5 + "|"]
    lines += [
        f"| {e['threads']} | {e['part']} | {e['phase']} | {e['case']} | {e['exponent']:.2f} |"
        for e in exponents
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
