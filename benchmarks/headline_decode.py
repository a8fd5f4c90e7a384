"""Decoding token by token: tokens per second and bytes of state of every causal mixer, by context.

One layer of each, by its real path: ``init_state``, ``prefill`` of the context, then ``step``. The steps lie
around the context's length, so that spans and groups that close there are among them, and the largest state
of those steps is told. One state per context is held, and at each step all contexts take their turn in
random order; growth is the ratio of the times at a context and at the shortest one, step by step. FIT is a
whole small model, with its embedding and its head.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from paired import Ratio
from torch import Tensor
from torch.utils._pytree import tree_leaves

import compiler
from archspec import Site
from archspec.source import parse_source
from zoo import load_zoo
from zoo.contract import Mixer

D_MODEL, N_HEADS, SPAN = 128, 2, 256
_COMBINER = {"kind": "combiner", "n_heads": N_HEADS}
CASES: dict[str, dict[str, Any]] = {
    "attention": {"kind": "attention", "n_heads": N_HEADS},
    "attention, window 256": {"kind": "attention", "n_heads": N_HEADS, "window": 256},
    "mamba2": {"kind": "mamba2", "d_state": 64},
    "combiner fixed": {**_COMBINER, "span": SPAN},
    "combiner logsparse": {**_COMBINER, "variant": "logsparse"},
    "combiner axial": {**_COMBINER, "variant": "axial", "span": SPAN},
    "combiner mixture": {**_COMBINER, "variant": "mixture", "span": SPAN},
    "combiner clustered": {**_COMBINER, "variant": "clustered", "span": SPAN, "n_clusters": 8},
    "routing": {"kind": "routing", "n_heads": N_HEADS, "n_clusters": 64, "cluster_window": 64, "window": 64},
    "routing, a strided head": {"kind": "routing", "n_heads": N_HEADS, "n_strided_heads": 1, "stride": 64,
                                "n_clusters": 64, "cluster_window": 64, "window": 64},
    "pool": {"kind": "pool"},
}  # fmt: skip
_FLAT = 1.1  # a time that grows by less than 10 % from the shortest context to the longest
_FIT = """
archspec: 1
input: {{kind: tokens, vocab_size: 256, seq_len: {length}}}
causal: true
d_model: {d_model}
stem: embedding
layers:
  - fit:
      n_groups: {n_groups}
      n_latents: 8
      d_latent: {d_model}
      schedule: "(1)1(1)"
      positions: learned
      local: {{token_mixer: {{kind: attention, n_heads: {n_heads}, rope: false}}, channel_mixer: mlp}}
      global: {{token_mixer: {{kind: attention, n_heads: {n_heads}, rope: false}}, channel_mixer: mlp}}
head: {{kind: lm, tied: true}}
"""


@dataclass(frozen=True)
class Decoding:
    """``start(n)`` gives the state after n tokens, ``step(state)`` the one after another."""

    name: str
    grows: str  # what the capability says: constant or growing
    start: Callable[[int], Any]
    step: Callable[[Any], Any]


def decodings(longest: int, device: torch.device, dtype: torch.dtype) -> Iterator[Decoding]:
    """Those of ``CASES``, FIT, and any other causal mixer of the zoo, in its first example that decodes."""
    classes: dict[str, Any] = dict(load_zoo().classes["token_mixer"])
    site = Site(D_MODEL, longest, causal=True)
    for name, fields in CASES.items():
        yield _layer(name, classes[fields["kind"]], fields, site, device, dtype)
    for kind in sorted(set(classes) - {fields["kind"] for fields in CASES.values()}):
        for example in classes[kind].examples:
            can = example.capabilities()
            fits = can.decode != "none" and can.causal != "never" and example.misfit(site) is None
            if fits and can.mixes_tokens:
                yield _layer(kind, classes[kind], example.model_dump(), site, device, dtype)
                break
    yield _fit(longest, device, dtype)


def measured(
    contexts: Sequence[int],
    n_steps: int,
    device: torch.device,
    dtype: torch.dtype,
    log: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """One row for each mixer and context."""
    torch.manual_seed(0)
    for case in decodings(max(contexts) + n_steps, device, dtype):
        log(f"decode, {case.name}")
        with torch.no_grad():
            yield from _rows(case, contexts, n_steps, device)


def _rows(
    case: Decoding, contexts: Sequence[int], n_steps: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    rng = random.Random(0)
    states = {n: case.start(n - n_steps // 2) for n in contexts}
    wall: dict[int, list[float]] = {n: [] for n in contexts}
    cpu: dict[int, list[float]] = {n: [] for n in contexts}
    sizes = dict.fromkeys(contexts, 0)
    for _ in range(n_steps):
        for n in rng.sample(list(contexts), len(contexts)):
            began, began_cpu = time.perf_counter(), time.process_time()
            states[n] = case.step(states[n])
            if device.type == "cuda":
                torch.cuda.synchronize()
            wall[n].append(time.perf_counter() - began)
            cpu[n].append(time.process_time() - began_cpu)
            sizes[n] = max(sizes[n], state_bytes(states[n]))
    first = contexts[0]
    for n in contexts:
        growth = Ratio.of(wall[n], wall[first])
        flat = growth.low <= _FLAT and sizes[n] == sizes[first]
        told = flat or case.grows == "growing"
        yield {
            "mixer": case.name, "decode": case.grows, "context": n,
            "tokens_per_s": round(1 / statistics.median(wall[n]), 1),
            "mean_cpu_ms": round(1e3 * statistics.fmean(cpu[n]), 3),
            "state_bytes": sizes[n], "bytes_per_token": round(sizes[n] / n, 2),
            "growth": round(growth.value, 3), "low": round(growth.low, 3), "high": round(growth.high, 3),
            "state_growth": round(sizes[n] / sizes[first], 3),
            "flat": "" if n == first else "yes" if flat else "no", "as_told": told,
        }  # fmt: skip


def state_bytes(state: Any) -> int:
    """All tensors of a state; those that only say how far it has come are a few bytes."""
    leaves = tree_leaves(getattr(state, "nodes", state))
    return sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))


def _layer(
    name: str, cls: Any, fields: dict[str, Any], site: Site, device: torch.device, dtype: torch.dtype
) -> Decoding:
    config = cls.Config.model_validate(fields)
    mixer: Mixer = cls(config, site).to(device, dtype).eval()
    tokens = torch.randn(1, 64, D_MODEL, device=device, dtype=dtype)

    def start(n: int) -> Any:
        x = torch.randn(1, n, D_MODEL, device=device, dtype=dtype)
        return 0, mixer.prefill(x, mixer.init_state(1, dtype=dtype, device=device))[1]

    def step(at: Any) -> Any:
        i, state = at
        return i + 1, mixer.step(tokens[:, i % 64], state)[1]

    return Decoding(name, config.capabilities().decode, start, step)


def _fit(longest: int, device: torch.device, dtype: torch.dtype) -> Decoding:
    """Groups of 256 tokens with 8 latents each: what grows are the keys and values of latents."""
    n_groups = -(-longest // 256)
    text = _FIT.format(d_model=D_MODEL, n_heads=N_HEADS, n_groups=n_groups, length=256 * n_groups)
    model = compiler.compile_spec(compiler.resolve(parse_source(text), load_zoo()), gate=False)
    model.module.to(device, dtype)
    decoder = model.eval().decoder()
    token = torch.zeros(1, dtype=torch.long, device=device)

    def start(n: int) -> Any:
        return decoder.prefill(torch.randint(256, (1, n), device=device), decoder.init_state(1))[1]

    return Decoding(
        "fit, groups of 256 (model)", "growing", start, lambda state: decoder.step(token, state)[1]
    )


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        f"Decoding, one layer of width {D_MODEL}, one sequence; growth is over the shortest context",
        "",
        "| mixer | decode | context | tokens/s | mean CPU ms | state bytes | bytes/token | time grows | 95 % "
        "| state grows | flat |",
        "|---" * 11 + "|",
    ]
    lines += [
        f"| {r['mixer']} | {r['decode']} | {r['context']} | {r['tokens_per_s']:.0f} | {r['mean_cpu_ms']:.2f} "
        f"| {r['state_bytes']:,} | {r['bytes_per_token']:.1f} | {r['growth']:.2f} | "
        f"{r['low']:.2f} to {r['high']:.2f} | {r['state_growth']:.2f} | {r['flat']} |"
        for r in rows
    ]
    return "\n".join(lines)
