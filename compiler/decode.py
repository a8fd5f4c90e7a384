"""Graph and module -> Decoder: the second reading of a graph, one token at a time over a tree of states.

Shapes: B batch, L length of the prompt, D width, V outputs per position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from archspec import Problem, SpecError
from compiler.graph import Graph, Op, inputs_of, ops, spec_of
from zoo.contract import Mixer, State, Stem


@dataclass(frozen=True)
class DecodeState:
    """One state per node (so each turn of a loop has its own), and how many tokens have been seen."""

    nodes: dict[str, State]
    position: Tensor  # a 0-d long tensor
    is_fresh: bool = True


class Decoder:
    """Runs a causal model token by token with the module's weights, in the mode (train or eval) it is in."""

    def __init__(self, graph: Graph, module: fx.GraphModule):
        if problems := list(decode_obstacles(graph)):
            raise SpecError(problems=dict.fromkeys(problems))
        self.graph = graph
        self.module = module
        self._steps = [(name, op, inputs_of(graph, name)) for name, op in ops(graph)]

    def init_state(self, batch_size: int) -> DecodeState:
        """The state before the first token."""
        like = next(self.module.parameters())
        nodes = {
            name: self._mixer(op).init_state(batch_size, dtype=like.dtype, device=like.device)
            for name, op, _ in self._steps
            if _is_mixer(op)
        }
        return DecodeState(nodes, torch.zeros((), dtype=torch.long, device=like.device))

    def prefill(self, inputs: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """Ids (B, L) or features (B, L, C) and a fresh state -> outputs (B, L, V) and the state after.

        A head that looks at the last position alone gives (B, V), as it does on the whole sequence.
        """
        assert state.is_fresh, "prefill starts from a fresh state"
        stem = self._module("stem")
        y, nodes = self._run(stem(inputs), state.nodes, lambda mixer, x, own: mixer.prefill(x, own))
        return y, DecodeState(nodes, state.position + inputs.shape[1], is_fresh=False)

    def step(self, inputs: Tensor, state: DecodeState) -> tuple[Tensor, DecodeState]:
        """One position's ids (B,) or features (B, C) -> its outputs (B, V) and the next state."""
        stem = self._module("stem")
        assert isinstance(stem, Stem)
        x = stem.step(inputs, state.position)
        y, nodes = self._run(x, state.nodes, lambda mixer, x, own: mixer.step(x, own))
        return y, DecodeState(nodes, state.position + 1, is_fresh=False)

    def _run(
        self,
        x: Tensor,
        states: dict[str, State],
        mix: Callable[[Mixer, Tensor, State], tuple[Tensor, State]],
    ) -> tuple[Tensor, dict[str, State]]:
        values: dict[str, Tensor] = {}
        after: dict[str, State] = {}
        for name, op, sources in self._steps:
            if op.kind in ("input", "mask", "mask_view"):
                continue
            if op.kind == "stem":
                values[name] = x
                continue
            inputs = [values[source] for source in sources if source in values]  # masks are left out
            if _is_mixer(op):
                values[name], after[name] = mix(self._mixer(op), inputs[0], states[name])
            elif op.kind == "add":
                values[name] = inputs[0] + inputs[1]
            elif op.kind == "output":
                return inputs[0], after
            else:
                values[name] = self._module(op.module)(*inputs)
        raise AssertionError("the graph has no output")

    def _module(self, path: str | None) -> nn.Module:
        assert path is not None
        return self.module.get_submodule(path)

    def _mixer(self, op: Op) -> Mixer:
        mixer = self._module(op.module)
        assert isinstance(mixer, Mixer)
        return mixer


def _is_mixer(op: Op) -> bool:
    return op.kind in ("token_mixer", "channel_mixer")


def decode_obstacles(graph: Graph) -> Iterator[Problem]:
    """Everything that keeps the model from decoding, by node."""
    spec = spec_of(graph)
    if not spec.causal:
        yield spec.problem(("causal",), "a bidirectional model does not decode token by token")
        return
    seen: set[tuple[str, int, object]] = set()
    for name, op in ops(graph):
        if (alike := (op.kind, id(op.config), op.origin)) in seen:
            continue
        seen.add(alike)
        if op.kind == "group" and op.stream is not None and op.stream.name == "tokens":
            yield spec.problem(op.origin, f"{name}: FIT blocks do not decode yet")
        if op.kind not in ("token_mixer", "channel_mixer", "stem", "head") or op.config is None:
            continue
        if op.config.capabilities().decode == "none":
            yield spec.problem(op.origin, f"{name}: '{op.config.kind}' has decode: none")
