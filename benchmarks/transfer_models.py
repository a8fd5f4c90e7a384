"""Which hybrids a transfer audit trains small, and which twelve of them it trains large."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archspec import ModelSpec
from archspec.dump import dump_spec
from archspec.identity import spec_hash
from archspec.proxy import Proxy, Shrink
from archspec.source import load_source, parse_source
from archspec.space import Space
from compiler import build_graph, resolve
from compiler.profiling import closed_profile
from search.pareto import ranks
from search.shrink import shrink
from zoo import load_zoo

PROXY = Proxy(shrink=Shrink(d_model="2/5"), seq_len="1/2")
_SPACE = Path(__file__).with_name("transfer_space.yaml")
_ZOO = load_zoo()
_N_MOTIF = 4


@dataclass(frozen=True)
class Member:
    """A full spec with its shrunk twin."""

    name: str
    strip: str
    full: ModelSpec
    twin: ModelSpec
    params: int
    twin_params: int
    flops: int  # of one forward pass of the full spec

    @property
    def hash(self) -> str:
        return spec_hash(self.full)[:12]


def members(n: int, seed: int) -> list[Member]:
    """The two interleaves, then ``n - 2`` random members of the space."""
    space, rng = Space(load_source(_SPACE)), random.Random(seed)
    motif = [hole.gene for hole in space.holes]
    assert len(motif) == _N_MOTIF

    def of(mixers: Sequence[str]) -> ModelSpec:
        return space.spec(dict(zip(motif, mixers, strict=True)), _ZOO.components)

    found = [
        _member("1:3", of(["mamba2", "mamba2", "attention", "mamba2"])),
        _member("1:7", _one_in_eight(of(["mamba2"] * 4), of(["mamba2", "mamba2", "attention", "mamba2"]))),
    ]
    seen = {member.hash for member in found}
    while len(found) < n:
        member = _member(f"h{len(found) - 2:02d}", space.spec(space.sample(rng), _ZOO.components))
        if member.hash not in seen:
            seen.add(member.hash)
            found.append(member)
    return found


def picks(models: Sequence[Member], loss: Mapping[str, float], *, n: int, seed: int) -> list[dict[str, Any]]:
    """``n`` members to train large, each with the rule that took it, from small losses and costs alone.

    A third from the front of small loss and the full spec's FLOPs, evenly along it and with the best; both
    interleaves; the rest half evenly over the order by small loss, half at random.
    """
    by_name = {member.name: member for member in models}
    taken: dict[str, str] = {"1:3": "1:3", "1:7": "1:7"}
    others = sorted((m for m in models if m.name not in taken), key=lambda m: loss[m.name])
    front = [
        m
        for m, r in zip(others, ranks([(loss[m.name], float(m.flops)) for m in others]), strict=True)
        if r == 0
    ]
    n_front = n // 3
    for i in np.unique(np.linspace(0, len(front) - 1, n_front).round().astype(int)):
        taken[front[i].name] = "front"
    left = [m for m in others if m.name not in taken]
    n_strata = (n - len(taken) + 1) // 2
    for i in np.linspace(0, len(left) - 1, n_strata).round().astype(int):
        taken[left[i].name] = "stratified"
    left = [m for m in left if m.name not in taken]
    for m in random.Random(seed).sample(left, n - len(taken)):
        taken[m.name] = "random"
    return [
        {"name": name, "rule": rule, "strip": by_name[name].strip, "small_loss": loss[name]}
        for name, rule in taken.items()
    ]


def _one_in_eight(recurrent: ModelSpec, mixed: ModelSpec) -> ModelSpec:
    """Seven recurrent layers and one of attention, from a model of each sort."""
    plain, other = recurrent.layers[0], mixed.layers[0]
    layers = (*other.layers, *plain.layers)  # type: ignore[union-attr]
    return resolve(parse_source(dump_spec(recurrent.model_copy(update={"layers": layers}))), _ZOO)


def _member(name: str, spec: ModelSpec) -> Member:
    twin = shrink(spec, PROXY, _ZOO)
    full, small = (
        closed_profile(
            build_graph(s, zoo=_ZOO), seq_len=s.input.seq_len, batch_size=1, dtype="float32", phase="prefill"
        )
        for s in (spec, twin)
    )
    flops = full.flops["prefill"]
    assert flops is not None
    return Member(name, _strip(spec), spec, twin, full.params, small.params, flops)


def _strip(spec: ModelSpec) -> str:
    """The layers' token mixers, a letter each: the first of the kind, L for attention with a window."""
    letters = []
    for entry in spec.layers:
        turns, layers = (entry.repeat, entry.layers) if hasattr(entry, "repeat") else (1, (entry,))
        letters += turns * [_letter(layer.token_mixer) for layer in layers]
    return "".join(letters)


def _letter(mixer: Any) -> str:
    return "L" if getattr(mixer, "window", None) and mixer.kind == "attention" else mixer.kind[0].upper()
