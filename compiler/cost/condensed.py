"""Graph -> a smaller Graph in which every kind of layer stands once, and which layer each one stands for.

A layer is all nodes under ``layers.N``; two are alike if their nodes are the same things joined in the same
way. Layers go only where one plain stream comes in and goes out. A model with a ``loop``, whose modules run
more than once, stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass

from compiler.graph import Graph, Op, add_op, all_inputs, new_graph, ops, spec_of

_LAYER = re.compile(r"(layers\.\d+)\.(.*)")


@dataclass(frozen=True)
class Layer:
    """Nodes of one layer in their order; ``represented_by`` is the layer that is like it."""

    name: str
    nodes: tuple[str, ...]
    represented_by: str


@dataclass(frozen=True)
class Condensed:
    """``graph`` has the layers that represent themselves; ``layers`` are those of the whole model."""

    graph: Graph
    layers: tuple[Layer, ...]

    def representative(self, node: str) -> str:
        """The node of ``graph`` that is like ``node`` of the whole model."""
        layer = layer_of(node)
        if layer is None or node in self.graph:
            return node
        at = next(found.represented_by for found in self.layers if found.name == layer)
        return at + node[len(layer) :]


def layer_of(node: str) -> str | None:
    """``layers.3.token_mixer`` -> ``layers.3``; None outside the layers."""
    match = _LAYER.fullmatch(node)
    return match[1] if match else None


def unit_of(place: str) -> str:
    """The layer of a node, a layer itself, or "" outside the layers."""
    return place if re.fullmatch(r"layers\.\d+", place) else layer_of(place) or ""


def condense(graph: Graph) -> Condensed:
    """Leave out every layer that is like an earlier one."""
    nodes, sources = dict(ops(graph)), all_inputs(graph)
    members: dict[str, list[str]] = {}
    for name in nodes:
        if (layer := layer_of(name)) is not None:
            members.setdefault(layer, []).append(name)
    first: dict[Hashable, str] = {}
    layers: list[Layer] = []
    passes: dict[str, str] = {}  # what a layer that is left out puts out -> what comes in
    if _runs_twice(nodes):
        return kept_whole(graph)
    for layer, names in members.items():
        stream = _through(graph, layer, names, sources)
        alike = None if stream is None else _description(layer, names, nodes, sources)
        kept = layer if alike is None else first.setdefault(alike, layer)
        layers.append(Layer(layer, tuple(names), kept))
        if kept != layer and stream is not None:
            passes[stream[1]] = stream[0]
    if not passes:
        return kept_whole(graph)
    left_out = {name for layer in layers if layer.represented_by != layer.name for name in layer.nodes}
    small = new_graph(spec_of(graph))
    for name, op in nodes.items():
        if name not in left_out:
            add_op(small, name, op, *(_resolved(source, passes) for source in sources[name]))
    return Condensed(small, tuple(layers))


def kept_whole(graph: Graph) -> Condensed:
    """``graph`` itself."""
    return Condensed(graph, ())


def _runs_twice(nodes: dict[str, Op]) -> bool:
    modules = [op.module for op in nodes.values() if op.module is not None]
    return len(set(modules)) < len(modules)


def _through(
    graph: Graph, layer: str, names: list[str], sources: dict[str, list[str]]
) -> tuple[str, str] | None:
    """The node before a layer and its last one, if nothing else but masks and inputs goes in or out."""
    inside = set(names)
    outer = {s for name in names for s in sources[name] if s not in inside}
    streams = [s for s in outer if graph.nodes[s]["op"].kind not in ("input", "mask", "mask_view")]
    leaving = {name for name in names if any(reader not in inside for reader in graph.successors(name))}
    if len(streams) != 1 or leaving != {names[-1]}:
        return None
    before, after = (graph.nodes[name]["op"].stream for name in (streams[0], names[-1]))
    return (streams[0], names[-1]) if before == after else None


def _description(
    layer: str, names: list[str], nodes: dict[str, Op], sources: dict[str, list[str]]
) -> Hashable:
    """What makes two layers alike; inputs by their place in the layer, or by what they are outside of it."""
    place = {name: i for i, name in enumerate(names)}
    described = []
    for name in names:
        op = nodes[name]
        joined = tuple(
            place[s] if s in place else nodes[s].kind if nodes[s].kind.startswith("mask") else "stream"
            for s in sources[name]
        )
        config = None if op.config is None else (type(op.config), op.config.model_dump_json())
        described.append(
            (name[len(layer) :], op.kind, config, op.site, op.d_source, op.stream, op.attributes, joined)
        )
    return tuple(described)


def _resolved(source: str, passes: dict[str, str]) -> str:
    while source in passes:
        source = passes[source]
    return source
