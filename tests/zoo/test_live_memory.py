"""Mixers that claim to grow less than L^2 never hold an L x L tensor, forward or backward.

Both passes are traced at two lengths, far above the examples' blocks and windows. A span that is meant to
follow the length (L^1.5 in a Combiner) is its square root here, chunks have at least 32 positions (fewer
take as many Python steps), and a table of positions is as long as the sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import planted_memory
import pytest
import torch
from live_memory import LiveMemory

from archspec import Site
from zoo import load_zoo
from zoo.checks import Case, cases
from zoo.contract import Component, Mixer

LENGTHS = (512, 2048)
_RATIO = LENGTHS[1] / LENGTHS[0]
_GROWTH = {
    "1": _RATIO,  # the passes over the input itself
    "L": _RATIO,
    "L log L": _RATIO * math.log(LENGTHS[1]) / math.log(LENGTHS[0]),
    "L^1.5": _RATIO**1.5,
}
_SLACK = 1.25  # tails of chunks and spans; an L x L tensor would grow by _RATIO**2


def subquadratic() -> Iterator[Case]:
    """Every example of every token mixer that claims so, at every site that makes a difference."""
    for cls in load_zoo().classes["token_mixer"].values():
        yield from (c for c in cases("token_mixer", cls, d_model=32) if c.can.complexity != "L^2")


def traced(case: Case, length: int) -> LiveMemory:
    """Forward and backward of one sequence."""
    module, x = built(case, length), torch.randn(1, length, case.d_model, requires_grad=True)
    with LiveMemory((x, *module.parameters(), *module.buffers())) as memory:
        outputs = [y for y in case.call(module, (x,)) if y.requires_grad]
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])
    return memory


def built(case: Case, length: int) -> Component:
    """At a site of ``length``."""
    config: Any = case.config
    changes = {"max_len": length, "chunk_size": max(32, getattr(config, "chunk_size", 0))}
    if case.can.complexity == "L^1.5":
        changes["span"] = math.isqrt(length)
    known = type(config).model_fields
    config = config.model_copy(update={name: value for name, value in changes.items() if name in known})
    cls: Any = case.cls
    built: Component = cls(config, Site(case.d_model, length, case.causal))
    return built


def fault(case: Case) -> str | None:
    """What is wrong with the memory of the case, or None."""
    short, long = (traced(case, length) for length in LENGTHS)
    most = _SLACK * _GROWTH[case.can.complexity]
    if long.largest >= LENGTHS[1] ** 2:
        return f"{long.where} has {long.largest} elements, L^2 are {LENGTHS[1] ** 2}"
    for name in ("largest", "peak"):
        growth = getattr(long, name) / max(1, getattr(short, name))
        if growth > most:
            return f"{name} grows by {growth:.1f}, claimed is {case.can.complexity}; {long.where}"
    return None


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in subquadratic()])
def test_no_mixer_holds_a_square(case: Case) -> None:
    assert fault(case) is None


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (planted_memory.Square, f"{LENGTHS[1]}, {LENGTHS[1]}"),
        (planted_memory.SquareInBackward, f"{LENGTHS[1]}, {LENGTHS[1]}"),
        (planted_memory.Hoarding, "peak grows by 1"),  # about 16
    ],
)
def test_planted_growth_is_seen(cls: type[Mixer], said: str) -> None:
    for case in cases("token_mixer", cls, d_model=32):
        assert said in str(fault(case))
