"""A tracer that knows where it is: which node of the graph runs now, forward or backward.

Forward, hooks on the modules tell; what runs between two modules belongs to the layer of the first. Backward,
autograd numbers its nodes as the forward pass makes them, so a number tells the node of the graph.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compiler.cost.condensed import layer_of
from compiler.cost.op_flops import Formula
from compiler.cost.tracer import Tally, Tracer
from compiler.graph import Graph, ops

_NO_NUMBER = 1 << 63  # autograd's leaves have the greatest number there is, and belong to no place


@dataclass
class Span:
    """A stretch of operations at one place: bytes alive when it began, and the most while it lasted."""

    phase: str
    place: str
    entry: int
    peak: int


class PlacedTracer(Tracer):  # type: ignore[no-untyped-call]
    """``tallies`` by phase and place; a place is a node, a layer (between its nodes) or "" (elsewhere)."""

    def __init__(self, op_flops: Mapping[str, Formula]):
        super().__init__(op_flops)
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.spans: list[Span] = []
        self.phase = ""
        self._inside: list[str] = []
        self._after = ""
        self._numbers: list[int] = []
        self._numbered: list[str] = []

    @property
    def place(self) -> str:
        """Where the pass is."""
        if self._inside:
            return self._inside[-1]
        if self.phase == "backward" and (node := torch._C._current_autograd_node()) is not None:
            number = node._sequence_nr()
            if number < _NO_NUMBER and self._numbers:
                self._after = self._numbered[max(0, bisect_right(self._numbers, number) - 1)]
        return self._after

    def begin(self, phase: str) -> None:
        self.phase = phase
        self._move(self._after)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        place = self.place
        span = self.spans[-1]
        if span.place != place or span.phase != self.phase:
            span = self._move(place)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        span.peak = max(span.peak, self.last_peak)
        return out

    def _move(self, place: str) -> Span:
        self.tally = self.tallies.setdefault((self.phase, place), Tally())
        self.spans.append(Span(self.phase, place, self.live, self.live))
        return self.spans[-1]

    @contextmanager
    def follow(self, root: nn.Module, graph: Graph) -> Iterator[None]:
        """Hear from the modules of ``graph`` inside ``root``; a module that runs again is the next node."""
        nodes: dict[str, list[str]] = {}
        for name, op in ops(graph):
            if op.module is not None:
                nodes.setdefault(op.module, []).append(name)
        handles = []
        for path, names in nodes.items():
            enter, leave = self._hooks(names)
            module = root.get_submodule(path)
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, names: list[str]) -> tuple[Any, Any]:
        turn = 0

        def enter(module: nn.Module, args: Any) -> None:
            nonlocal turn
            name = names[turn % len(names)]
            turn += 1
            self._inside.append(name)
            self._number(name)

        def leave(module: nn.Module, args: Any, out: Any) -> None:
            self._after = layer_of(self._inside.pop()) or ""
            self._number(self._after)

        return enter, leave

    def _number(self, place: str) -> None:
        if self.phase == "forward":
            self._numbers.append(torch._C._autograd._get_sequence_nr())
            self._numbered.append(place)
