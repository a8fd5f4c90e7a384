"""The compiled graph beside the same model written by hand: same operations, and the ratio of times.

    python benchmarks/graph_overhead.py [--rounds 200] [--save]

Both use the same mixers and weights. The bound is the upper end of the 95 % bootstrap interval of the median
paired ratio, compiled over hand-written, forward passes interleaved in random order on one thread.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Any

import torch
from paired import interval
from record import provenance, save
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import compiler
from archspec.source import parse_source
from zoo import load_zoo

SPEC = """
archspec: 1
input: {kind: tokens, vocab_size: 256, seq_len: 512}
causal: true
d_model: 128
stem: embedding
layers:
  - {token_mixer: {kind: mamba2, d_state: 16, d_head: 32}, channel_mixer: swiglu}
  - {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: swiglu}
  - {token_mixer: {kind: combiner, n_heads: 4, span: 16}, channel_mixer: swiglu}
head: {kind: lm, tied: true}
"""


class ByHand(nn.Module):
    """What a person would write for ``SPEC``, on the parts of a compiled model."""

    def __init__(self, parts: nn.Module):
        super().__init__()
        self.stem = parts.stem
        self.layers = parts.layers
        self.norm = parts.norm
        self.head = parts.head

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.stem(tokens)
        for layer in self.layers.children():  # type: ignore[operator, union-attr]
            x = x + layer.token_mixer(layer.token_norm(x))
            x = x + layer.channel_mixer(layer.channel_norm(x))
        return self.head(self.norm(x))


class Operations(TorchDispatchMode):
    """Every aten operation, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spec = compiler.resolve(parse_source(SPEC), load_zoo())
    compiled = compiler.compile_spec(spec, gate=False).eval().module
    hand = ByHand(compiled).eval()
    tokens = torch.randint(256, (1, 512))
    with torch.no_grad():
        assert torch.equal(compiled(tokens), hand(tokens))
        assert operations(compiled, tokens) == operations(hand, tokens), "the operations differ"
        ratios = paired(compiled, hand, tokens, arguments.rounds)
    low, high = interval(ratios)
    row = {
        "n_operations": len(operations(compiled, tokens)),
        "ratio": round(statistics.median(ratios), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "rounds": arguments.rounds,
    }
    table = "\n".join([" | ".join(row), " | ".join("---" for _ in row), " | ".join(map(str, row.values()))])
    print(table)
    if arguments.save:
        save("graph-overhead", {**provenance(), "rows": [row]}, table)


def operations(module: nn.Module, tokens: Tensor) -> list[str]:
    with Operations() as seen, torch.no_grad():
        module(tokens)
    return seen.names


def paired(a: nn.Module, b: nn.Module, tokens: Tensor, n_rounds: int) -> list[float]:
    """Ratios of the times of ``a`` to those of ``b``, after ten rounds that do not count."""
    rng = random.Random(0)
    ratios = []
    for round_ in range(n_rounds + 10):
        seconds = {}
        for module in rng.sample([a, b], 2):
            start = time.perf_counter()
            module(tokens)
            seconds[id(module)] = time.perf_counter() - start
        if round_ >= 10:
            ratios.append(seconds[id(a)] / seconds[id(b)])
    return ratios


if __name__ == "__main__":
    main()
