"""Graph and module -> Decoder: the second reading of a graph, one token at a time over a tree of states.

Shapes: B batch, L length of the prompt, D width, V outputs per position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from archspec import Problem, SpecError
from compiler.clocks import clocks
from compiler.graph import Graph, inputs_of, ops, spec_of
from compiler.passes.lower import encoder_of
from compiler.readings import Node, Prefill, Step
from zoo.contract import State, Stem, Transfer
from zoo.masks import check_mask


@dataclass(frozen=True)
class DecodeState:
    """One state per node (so each turn of a loop has its own), and how many tokens have been seen."""

    nodes: dict[str, State]
    position: Tensor  # a 0-d long tensor
    n_seen: int = 0  # the same where Python needs it, without waiting for a device

    @property
    def is_fresh(self) -> bool:
        return not self.n_seen


class Decoder:
    """Runs a causal model token by token with the module's weights, in the mode (train or eval) it is in."""

    def __init__(self, graph: Graph, module: fx.GraphModule):
        if problems := list(decode_obstacles(graph)):
            raise SpecError(problems=dict.fromkeys(problems))
        self.graph = graph
        self.module = module
        self._nodes = tuple(_nodes(graph, module))
        self._encoder = encoder_of(graph, module) if spec_of(graph).encoder is not None else None

    def init_state(
        self, batch_size: int, source: Tensor | None = None, source_mask: Tensor | None = None
    ) -> DecodeState:
        """The state before the first token.

        With an encoder, ``source`` (and its mask) is what the tokens will be decoded from: it is encoded
        here, once.
        """
        if (source is None) != (self._encoder is None):
            raise ValueError(
                "this model has no encoder, and takes no source"
                if self._encoder is None
                else "this model has an encoder: decoding starts with init_state(batch_size, source)"
            )
        if source is not None:
            check_mask(source_mask, source)
        like = self._like
        fresh = {node.name: node.fresh(batch_size, like) for node in self._nodes}
        nodes = {name: state for name, state in fresh.items() if state is not None}
        if self._encoder is not None:
            nodes |= self._remembered(*self._encoder(source, source_mask))
        return DecodeState(nodes, torch.zeros((), dtype=torch.long, device=like.device))

    def prefill(self, inputs: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Ids (B, L) or features (B, L, C) and a fresh state -> outputs (B, L, V) and the state after.

        A head that looks at the last position alone gives (B, V), as it does on the whole sequence.
        """
        assert state.is_fresh, "prefill starts from a fresh state"
        length = inputs.shape[1]
        x = self.module.get_submodule("stem")(inputs)
        y, nodes = Prefill(length, like=self._like).run(self._nodes, x, state.nodes)
        return y, DecodeState(nodes, state.position + length, length)

    def step(self, inputs: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """One position's ids (B,) or features (B, C) -> its outputs (B, V) and the next state."""
        stem = self.module.get_submodule("stem")
        assert isinstance(stem, Stem)
        x = stem.step(inputs, state.position)
        y, nodes = Step(n_seen=state.n_seen, like=self._like).run(self._nodes, x, state.nodes)
        return y, DecodeState(nodes, state.position + 1, state.n_seen + 1)

    def _remembered(self, read: Tensor, mask: Tensor | None) -> dict[str, State]:
        """What the encoder put out -> the state of every node that reads it."""
        states = {}
        for node in self._nodes:
            if node.op.kind == "cross":
                assert isinstance(node.part, Transfer)
                states[node.name] = node.part.remember(read) | ({} if mask is None else {"mask": mask})
        return states

    @property
    def _like(self) -> Tensor:
        return next(self.module.parameters())


def _nodes(graph: Graph, module: nn.Module) -> Iterator[Node]:
    ticking = clocks(graph)
    for name, op in ops(graph):
        if op.stream is not None and op.stream.of_encoder:
            continue  # it runs as a whole
        sources = tuple(inputs_of(graph, name))
        part = None if op.module is None else module.get_submodule(op.module)
        n_latents = graph.nodes[sources[1]]["op"].number("length") if op.kind == "write" else 0
        yield Node(name, op, ticking[name], sources, part, n_latents)


def decode_obstacles(graph: Graph) -> Iterator[Problem]:
    """Everything that keeps the model from decoding, by node."""
    spec = spec_of(graph)
    if not spec.causal:
        yield spec.problem(("causal",), "a bidirectional model does not decode token by token")
        return
    seen: set[tuple[str, int, object]] = set()
    for name, op in ops(graph):
        if op.stream is not None and op.stream.of_encoder:
            continue
        if (alike := (op.kind, id(op.config), op.origin)) in seen:
            continue
        seen.add(alike)
        steps = op.kind in ("token_mixer", "channel_mixer", "stem", "head") or op.d_source is not None
        if not steps or op.config is None:
            continue
        if op.config.capabilities().decode == "none":
            yield spec.problem(op.origin, f"{name}: '{op.config.kind}' has decode: none")
