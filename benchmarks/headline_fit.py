"""FIT on 16,384 tokens, forward and backward: how much memory beyond weights and input.

A process of its own for each size, so that its resident memory is that of this one pass. What grew there is
read from the system (the process's high-water mark less what it held before), and what tensors held at the
greatest moment from the allocator, in a second pass. The gradients of all weights are among it.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from peak import peak_bytes

import compiler
from archspec.source import parse_source
from zoo import load_zoo

N_TOKENS, BAR_MIB = 16_384, 1024
SPEC = """
archspec: 1
input: {{kind: features, d_input: 48, seq_len: {n_tokens}}}
causal: false
d_model: {d_model}
stem: linear
layers:
  - fit:
      n_groups: {n_groups}
      n_latents: 8
      d_latent: {d_latent}
      schedule: "(2)4(2)"
      positions: learned
      local: {{token_mixer: {{kind: attention, n_heads: 4, rope: false}}, channel_mixer: mlp}}
      global: {{token_mixer: {{kind: attention, n_heads: 4, rope: false}}, channel_mixer: mlp}}
head: {{kind: classifier, n_classes: 1000, pool: mean}}
"""
SIZES = ((128, 256), (256, 384))  # widths of tokens and latents; the bar is for the first


def measured(device: torch.device, n_tokens: int = N_TOKENS) -> list[dict[str, Any]]:
    """One row for each size."""
    rows = []
    for d_model, d_latent in SIZES:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
            rows.append(child.submit(_measure, d_model, d_latent, n_tokens, str(device)).result())
    most = max(rows[0]["peak_mib"], rows[0].get("rss_mib", 0))
    rows[0] |= {"bar_mib": BAR_MIB, "met": "yes" if most <= BAR_MIB else "no"}
    return rows


def _measure(d_model: int, d_latent: int, n_tokens: int, device_name: str) -> dict[str, Any]:
    device = torch.device(device_name)
    torch.set_num_threads(1)
    n_groups = n_tokens // 256
    text = SPEC.format(d_model=d_model, d_latent=d_latent, n_tokens=n_tokens, n_groups=n_groups)
    spec = compiler.resolve(parse_source(text), load_zoo())
    module = compiler.compile_spec(spec, gate=False, device=device_name).module
    x = torch.randn(1, n_tokens, 48, device=device)

    def run() -> None:
        module.zero_grad(set_to_none=True)
        module(x).square().sum().backward()

    row = {
        "d_model": d_model, "d_latent": d_latent, "tokens": n_tokens, "groups": n_groups,
        "latents": 8 * n_groups, "params": sum(p.numel() for p in module.parameters()),
    }  # fmt: skip
    if device.type == "cpu":
        before = psutil.Process().memory_info().rss
        run()
        row["rss_mib"] = round((1024 * _high_water_kib() - before) / 2**20, 1)
    else:
        run()
    module.zero_grad(set_to_none=True)
    row["peak_mib"] = round(peak_bytes(run, device) / 2**20, 1)
    return row


def _high_water_kib() -> int:
    """Of this process: ``getrusage`` begins with what the parent held when it started the child."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        f"FIT on {rows[0]['tokens']:,} tokens, forward and backward: memory beyond weights and input",
        "",
        "| token width | latent width | groups | latents | parameters | live MiB | resident MiB | bar |",
        "|---" * 8 + "|",
    ]
    for r in rows:
        bar = f"<= {r['bar_mib']} MiB: {r['met']}" if "met" in r else ""
        lines.append(
            f"| {r['d_model']} | {r['d_latent']} | {r['groups']} | {r['latents']} | {r['params']:,} | "
            f"{r['peak_mib']:.0f} | {r.get('rss_mib', '')} | {bar} |"
        )
    return "\n".join(lines)
