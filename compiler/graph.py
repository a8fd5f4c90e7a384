"""The compiler's graph: a plain networkx MultiDiGraph of frozen ``Op``s; an edge's key is the input slot it feeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import networkx as nx

from archspec import ComponentConfig, Site
from archspec.spec import ModelSpec

OpKind = Literal[
    "input", "mask", "stem", "norm", "token_mixer", "channel_mixer", "add", "combine", "head", "output",
    "group", "ungroup", "latents", "group_positions", "read", "write", "shift",
]  # fmt: skip
Graph: TypeAlias = "nx.MultiDiGraph[str]"


@dataclass(frozen=True)
class Stream:
    """The shape a node's output has: (batch * ``fold``, ``length``, ``width``); ``name`` tells tokens from latents."""

    name: str
    length: int
    width: int
    fold: int = 1  # how many groups of one sequence stand in the batch dimension


@dataclass(frozen=True)
class Op:
    """One node: what it does, the module that does it, and the spec path it comes from.

    The node's name in the graph is its cost row and, for nodes with weights, the ``state_dict`` prefix; ``module`` is
    the module's path and differs from the name only where a ``loop`` runs the same module again.
    """

    kind: OpKind
    config: ComponentConfig | None = None
    module: str | None = None
    origin: tuple[str | int, ...] = ()
    site: Site | None = None
    d_source: int | None = None
    stream: Stream | None = None  # set by infer_shapes
    attributes: tuple[
        tuple[str, Any], ...
    ] = ()  # n_groups, n_latents, combine: what the kind needs beside a config


def new_graph(spec: ModelSpec) -> Graph:
    """An empty graph that remembers its spec."""
    return nx.MultiDiGraph(spec=spec)


def add_op(graph: Graph, name: str, op: Op, *inputs: str) -> str:
    """Add a node fed by ``inputs`` in slot order; returns its name."""
    assert name not in graph, f"two nodes are called {name}"
    graph.add_node(name, op=op)
    for slot, source in enumerate(inputs):
        assert source in graph, f"{name} reads {source}, which does not exist yet"
        graph.add_edge(source, name, key=slot)
    return name


def ops(graph: Graph) -> Iterator[tuple[str, Op]]:
    """Nodes in topological order, the order of insertion breaking ties."""
    order = {name: i for i, name in enumerate(graph)}
    for name in nx.lexicographical_topological_sort(graph, key=order.__getitem__):
        yield name, graph.nodes[name]["op"]


def inputs_of(graph: Graph, name: str) -> list[str]:
    """The nodes that feed ``name``, in slot order."""
    return [source for source, _, _ in sorted(graph.in_edges(name, keys=True), key=lambda edge: edge[2])]
