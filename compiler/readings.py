"""The two ways a decoder reads a graph: a whole prefix at once, or one token on the states before it.

In a FIT block tokens go on at every step, with states that begin anew with each group. A read keeps what it
remembers of the open group's tokens; once the group is complete the latents run, on states that have seen
those of earlier groups, and a write keeps what it remembers of them for the next group.

Shapes: B batch, L length, D width, n positions per group, T groups of which G are complete, r tokens in an
open one, m latents per group.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compiler import streams
from compiler.clocks import Clock
from compiler.graph import Op
from zoo.contract import Mixer, State, Transfer, only_output
from zoo.fit import GroupPositions, Latents


@dataclass(frozen=True)
class Node:
    """A node of the graph with its module, and ``n_latents``, the positions that a write reads."""

    name: str
    op: Op
    clock: Clock
    sources: tuple[str, ...]
    part: nn.Module | None
    n_latents: int = 0

    def fresh(self, batch_size: int, like: Tensor) -> State | None:
        """The state before the first token, if the node has one; zeros stand before the first group."""
        if isinstance(self.part, Mixer):
            return self.part.init_state(batch_size, dtype=like.dtype, device=like.device)
        if isinstance(self.part, Transfer) and self.op.kind != "cross":
            assert self.op.d_source is not None
            return self.part.remember(like.new_zeros(batch_size, self.n_latents, self.op.d_source))
        return None


class Reading(ABC):
    """One run over the nodes; ``like`` has the type and device of states."""

    def __init__(self, *, n_seen: int, like: Tensor):
        self.n_seen = n_seen  # tokens before this reading
        self.like = like

    def run(
        self, nodes: Sequence[Node], x: Tensor, states: dict[str, State]
    ) -> tuple[Tensor, dict[str, State]]:
        """The stem's output and every node's state -> the model's output and the states after it."""
        values: dict[str, Tensor] = {}
        after: dict[str, State] = {}
        for node in nodes:
            if node.op.kind in ("input", "mask", "mask_view"):
                continue
            inputs = [values[source] for source in node.sources if source in values]  # masks are left out
            if node.op.kind == "output":
                return inputs[0], after
            if node.op.kind == "stem":
                values[node.name] = x
                continue
            value, state = self.value(node, inputs, states.get(node.name))
            if value is not None:
                values[node.name] = value
            if state is not None:
                after[node.name] = state
        raise AssertionError("the graph has no output")

    def value(
        self, node: Node, inputs: list[Tensor], state: State | None
    ) -> tuple[Tensor | None, State | None]:
        """A node's output, None where no group is complete, and its next state."""
        kind, part = node.op.kind, node.part
        if isinstance(part, Transfer):
            assert state is not None
            if kind == "cross":
                return self.cross(part, inputs[0], state), state
            return (self.read if kind == "read" else self.write)(node, part, inputs, state)
        if isinstance(part, Latents):
            return self.latents(node, part, inputs[0]), None
        if not self.runs(node.clock):
            return None, state
        if isinstance(part, Mixer):
            assert state is not None
            return self.mix(node, part, inputs[0], state)
        if isinstance(part, GroupPositions):
            return self.positions(node, part, inputs[0]), None
        if kind == "add":
            return inputs[0] + inputs[1], None
        if kind in ("group", "ungroup", "shift"):
            return self.rearrange(node, inputs), None
        assert part is not None, f"{node.name}: nothing runs a {kind}"
        y: Tensor = part(*inputs)
        return y, None

    @abstractmethod
    def runs(self, clock: Clock) -> bool:
        """Whether there is anything for a node of this clock to do."""

    @abstractmethod
    def mix(self, node: Node, mixer: Mixer, x: Tensor, state: State) -> tuple[Tensor, State]: ...

    @abstractmethod
    def cross(self, transfer: Transfer, x: Tensor, state: State) -> Tensor:
        """The tokens read what is remembered of the encoder."""

    @abstractmethod
    def latents(self, node: Node, latents: Latents, x: Tensor) -> Tensor | None: ...

    @abstractmethod
    def positions(self, node: Node, positions: GroupPositions, x: Tensor) -> Tensor: ...

    @abstractmethod
    def rearrange(self, node: Node, inputs: list[Tensor]) -> Tensor: ...

    @abstractmethod
    def read(
        self, node: Node, transfer: Transfer, inputs: list[Tensor], state: State
    ) -> tuple[Tensor | None, State]:
        """``inputs`` are the complete groups' latents, if any, and the tokens."""

    @abstractmethod
    def write(
        self, node: Node, transfer: Transfer, inputs: list[Tensor], state: State
    ) -> tuple[Tensor, State]:
        """``inputs`` are the tokens and the complete groups' latents, if any."""


class Step(Reading):
    """One token: values are (B, D) on tokens, inside groups too, and (B, m, D) on latents."""

    def runs(self, clock: Clock) -> bool:
        return clock.ticks(self.n_seen)

    def mix(self, node: Node, mixer: Mixer, x: Tensor, state: State) -> tuple[Tensor, State]:
        if node.clock.n_latents:
            return mixer.step_block(x, state)
        y, after = mixer.step(x, state)
        if node.clock.completes(self.n_seen):
            after = node.fresh(x.shape[0], self.like) or after
        return y, after

    def cross(self, transfer: Transfer, x: Tensor, state: State) -> Tensor:
        return transfer.recall(x[:, None], state, first=self.n_seen)[:, 0]

    def latents(self, node: Node, latents: Latents, x: Tensor) -> Tensor | None:
        latents.check_length(self.n_seen + 1)
        group = self.n_seen // node.clock.length
        return latents.of_groups(group, group + 1, like=x) if self.runs(node.clock) else None

    def positions(self, node: Node, positions: GroupPositions, x: Tensor) -> Tensor:
        return positions.step(x, self.n_seen % node.clock.length)

    def rearrange(self, node: Node, inputs: list[Tensor]) -> Tensor:
        return inputs[0]  # the write is what shifts: it reads what it remembers before it learns more

    def read(
        self, node: Node, transfer: Transfer, inputs: list[Tensor], state: State
    ) -> tuple[Tensor | None, State]:
        *own, g = inputs
        token = transfer.remember(g[:, None])
        remembered = {name: torch.cat([state[name], new], dim=1) for name, new in token.items()}
        if not own:
            return None, remembered
        return transfer.recall(own[0], remembered), _forgotten(remembered)

    def write(
        self, node: Node, transfer: Transfer, inputs: list[Tensor], state: State
    ) -> tuple[Tensor, State]:
        g, *given = inputs
        y = transfer.recall(g[:, None], state, first=self.n_seen % node.clock.length)[:, 0]
        return y, transfer.remember(given[0]) if given else state


class Prefill(Reading):
    """L tokens from fresh states: values are (B, L, D), (B T, n, D) inside groups, (B, G m, D) on latents."""

    def __init__(self, length: int, *, like: Tensor):
        super().__init__(n_seen=0, like=like)
        self.length = length

    def runs(self, clock: Clock) -> bool:
        return not clock.n_latents or self.length >= clock.length

    def mix(self, node: Node, mixer: Mixer, x: Tensor, state: State) -> tuple[Tensor, State]:
        if not node.clock.is_local:
            return mixer.prefill(x, state)
        y, _ = mixer.prefill(x, mixer.init_state(x.shape[0], dtype=self.like.dtype, device=self.like.device))
        opened = self.open_group(x, node.clock)
        return y, mixer.prefill(opened, state)[1] if opened.shape[1] else state

    def cross(self, transfer: Transfer, x: Tensor, state: State) -> Tensor:
        return transfer.recall(x, state)

    def latents(self, node: Node, latents: Latents, x: Tensor) -> Tensor | None:
        latents.check_length(self.length)
        n_complete = self.length // node.clock.length
        return latents.of_groups(0, n_complete, like=x) if n_complete else None

    def positions(self, node: Node, positions: GroupPositions, x: Tensor) -> Tensor:
        y: Tensor = positions(x)
        return y

    def rearrange(self, node: Node, inputs: list[Tensor]) -> Tensor:
        if node.op.kind == "ungroup":
            return streams.ungroup(*inputs)
        length = node.op.number("length")
        if node.op.kind == "group":
            return streams.group(inputs[0], length)
        zeros = torch.zeros_like(inputs[0][:, :length])
        return torch.cat([zeros, inputs[0]], dim=1)  # (B, (G + 1) m, D): the last group's are kept for later

    def read(
        self, node: Node, transfer: Transfer, inputs: list[Tensor], state: State
    ) -> tuple[Tensor | None, State]:
        *own, g = inputs
        n = g.shape[1]
        opened = self.open_group(g, Clock(n))
        if not own:
            return None, transfer.remember(opened)
        whole = g.reshape(opened.shape[0], -1, *g.shape[1:])[:, : self.length // n]  # (B, G, n, D)
        return only_output(transfer(own[0], whole.flatten(0, 1))), transfer.remember(opened)

    def write(
        self, node: Node, transfer: Transfer, inputs: list[Tensor], state: State
    ) -> tuple[Tensor, State]:
        g, *given = inputs
        if not given:
            return transfer.recall(g, state), state
        n_groups = -(-self.length // g.shape[1])
        shifted = given[0].reshape(g.shape[0] // n_groups, -1, *given[0].shape[1:])  # (B, G + 1, m, D)
        y = only_output(transfer(g, shifted[:, :n_groups].flatten(0, 1)))
        return y, transfer.remember(shifted[:, -1])

    def open_group(self, x: Tensor, clock: Clock) -> Tensor:
        """(B T, n, D) -> (B, r, D), the tokens of the group that is not complete."""
        last = x.reshape(-1, -(-self.length // clock.length), *x.shape[1:])[:, -1]  # (B, n, D)
        return last[:, : self.length % clock.length]


def _forgotten(state: State) -> State:
    return {name: t.new_empty(t.shape[0], 0, *t.shape[2:]) for name, t in state.items()}
