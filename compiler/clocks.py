"""How often a node runs in decoding: at every token, or when a group of FIT's tokens is complete."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.graph import Graph, all_inputs, ops


@dataclass(frozen=True)
class Clock:
    """Outside FIT every token runs a node, and its state has seen all tokens (``length`` 0).

    On the tokens inside groups of ``length`` it runs at every token too, but its state begins anew with each
    group. On latents it runs when a group is complete, on ``n_latents`` positions, and its state has seen
    those of the complete groups.
    """

    length: int = 0
    n_latents: int = 0

    @property
    def is_local(self) -> bool:
        return bool(self.length) and not self.n_latents

    def ticks(self, n_seen: int) -> bool:
        """Whether the node runs at the token after ``n_seen`` tokens."""
        return not self.n_latents or self.completes(n_seen)

    def completes(self, n_seen: int) -> bool:
        """Whether the token after ``n_seen`` tokens is the last of its group."""
        return bool(self.length) and (n_seen + 1) % self.length == 0

    def context(self, n_seen: int) -> int:
        """Positions that the node's state has seen after ``n_seen`` tokens."""
        if not self.length:
            return n_seen
        return n_seen // self.length * self.n_latents if self.n_latents else n_seen % self.length


def clocks(graph: Graph) -> dict[str, Clock]:
    """After ``infer_shapes``, the clock of every node; a node keeps that of the stream it goes on with."""
    found: dict[str, Clock] = {}
    sources = all_inputs(graph)
    for name, op in ops(graph):
        if not sources[name]:
            found[name] = Clock()
            continue
        before = [found[source] for source in sources[name]]
        match op.kind:
            case "group" if op.stream is not None and op.stream.name == "tokens":
                found[name] = Clock(op.number("length"))
            case "latents":
                found[name] = Clock(op.number("length"), op.number("n_latents"))
            case "ungroup":
                found[name] = before[1]
            case _:
                found[name] = before[0]
    return found
