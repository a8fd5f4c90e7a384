"""The compiler's graph: a networkx MultiDiGraph of frozen ``Op``s; an edge's key is the slot it feeds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import networkx as nx

from archspec import ComponentConfig, Input, Problem, Site
from archspec.spec import ModelSpec

OpKind = Literal[
    "input", "mask", "mask_view", "stem", "norm", "token_mixer", "channel_mixer", "add", "combine", "head",
    "output", "group", "ungroup", "latents", "group_positions", "read", "write", "shift", "cross",
    "condition", "time", "earlier_latents", "condition_tokens", "self_condition",
]  # fmt: skip
SOURCES: tuple[OpKind, ...] = ("input", "mask", "condition", "time", "earlier_latents")  # the model's inputs
Graph: TypeAlias = "nx.MultiDiGraph[str]"


@dataclass(frozen=True)
class Stream:
    """A node's output is (batch * ``fold``, ``length``, ``width``); ``name`` tells tokens from latents.

    ``length`` is the greatest one. ``fold`` says how many groups of one sequence stand in the batch
    dimension, and ``block`` how many positions count as one moment: the latents of a group all stand for
    the group's end. ``of_encoder`` tells the source's side, which is read both ways, from the target's.
    """

    name: str
    length: int
    width: int
    fold: int = 1
    block: int = 1
    of_encoder: bool = False


@dataclass(frozen=True)
class Op:
    """One node: what it does, the module that does it, and the spec path it comes from.

    The node's name in the graph is its cost row and, for nodes with weights, the ``state_dict`` prefix;
    ``module`` is the module's path and differs from the name only where a ``loop`` runs the same module
    again. ``attributes`` are what the kind needs beside a config: ``length`` (positions per group, latents
    per group to shift by), ``n_groups``, ``n_latents``, ``view`` (what a mask is made into).

    Slots: a mixer, stem or head reads its stream and, if it looks at masks, a mask; ``add`` and ``combine``
    read the streams they join; ``ungroup`` and ``latents`` read their stream and the ungrouped one whose
    shape they follow; ``read``, ``write`` and ``cross`` read queries, source and, if the source has one, its
    mask; ``condition_tokens`` the vectors and the time, where the model has them; ``self_condition`` latents
    and those of an earlier pass; ``output`` the head and, where a model conditions itself, the last latents.
    """

    kind: OpKind
    config: ComponentConfig | None = None
    module: str | None = None
    origin: tuple[str | int, ...] = ()
    site: Site | None = None  # set by infer_shapes, with d_source (of a transfer) and stream
    d_source: int | None = None
    stream: Stream | None = None
    attributes: tuple[tuple[str, int | str], ...] = ()

    def placed(
        self, *, site: Site | None = None, d_source: int | None = None, stream: Stream | None = None
    ) -> Op:
        """The same op with what is given filled in (``dataclasses.replace`` takes twice as long)."""
        return Op(
            self.kind,
            self.config,
            self.module,
            self.origin,
            site or self.site,
            self.d_source if d_source is None else d_source,
            stream or self.stream,
            self.attributes,
        )

    @property
    def of_encoder(self) -> bool:
        """Whether this is an input, mask or stem of the encoder; of other nodes the stream tells."""
        return self.origin[:1] == ("encoder",)

    def attribute(self, name: str) -> int | str:
        """The attribute called ``name``; it must exist."""
        return dict(self.attributes)[name]

    def number(self, name: str) -> int:
        """The attribute called ``name``, an integer."""
        value = self.attribute(name)
        assert isinstance(value, int), f"{self.kind}: {name} is {value!r}"
        return value


def new_graph(spec: ModelSpec) -> Graph:
    """An empty graph of ``spec``; passes add warnings to it, and problems that ``check`` raises."""
    return nx.MultiDiGraph(spec=spec, warnings=(), problems=())


def add_op(graph: Graph, name: str, op: Op, *inputs: str) -> str:
    """Add a node fed by ``inputs`` in slot order; returns its name."""
    assert name not in graph, f"two nodes are called {name}"
    graph.add_node(name, op=op)
    for slot, source in enumerate(inputs):
        assert source in graph, f"{name} reads {source}, which does not exist yet"
        graph.add_edge(source, name, key=slot)
    return name


def ops(graph: Graph) -> Iterator[tuple[str, Op]]:
    """Nodes in topological order: that of insertion, since a node's inputs exist when it is added."""
    for name, attributes in graph.nodes.items():
        yield name, attributes["op"]


def inputs_of(graph: Graph, name: str) -> list[str]:
    """The nodes that feed ``name``, in slot order."""
    edges = ((slot, source) for source, slots in graph.pred[name].items() for slot in slots)
    return [source for _, source in sorted(edges)]


def all_inputs(graph: Graph) -> dict[str, list[str]]:
    """For every node what ``inputs_of`` says, in one pass."""
    edges: dict[str, list[tuple[int, str]]] = {name: [] for name in graph}
    for source, name, slot in graph.in_edges(keys=True):
        edges[name].append((int(slot), source))
    return {
        name: [source for _, source in (slots if len(slots) < 2 else sorted(slots))]
        for name, slots in edges.items()
    }


def spec_of(graph: Graph) -> ModelSpec:
    """The spec the graph was made of."""
    spec = graph.graph["spec"]
    assert isinstance(spec, ModelSpec)
    return spec


def input_of(graph: Graph, op: Op) -> Input:
    """What a stem (an input, a mask, a head) takes in: the encoder's input, or the model's."""
    spec = spec_of(graph)
    return spec.encoder.input if spec.encoder is not None and op.of_encoder else spec.input


def must_be_causal(graph: Graph, stream: Stream | None) -> bool:
    """Whether the model promises causality on ``stream``."""
    return spec_of(graph).causal and stream is not None and not stream.of_encoder


def warnings_of(graph: Graph) -> tuple[Problem, ...]:
    """What the passes found legal but suspicious."""
    found: tuple[Problem, ...] = graph.graph["warnings"]
    return found


def replace_ops(graph: Graph, replaced: Mapping[str, Op]) -> Graph:
    """``graph`` itself with other ops at some nodes: a pass is given its graph to keep."""
    for name, op in replaced.items():
        graph.nodes[name]["op"] = op
    return graph


def maskless_mixers(graph: Graph) -> dict[str, Op]:
    """The mixers that look at other positions and take no mask: they would read padding."""
    found: dict[str, Op] = {}
    for name, op in ops(graph):
        if op.kind in ("token_mixer", "channel_mixer") and op.config is not None:
            can = op.config.capabilities()
            if can.mixes_tokens and not can.padding:
                found[name] = op
    return found


def is_inside(op: Op, block: Op) -> bool:
    """Whether ``op`` comes from the part of the spec that ``block`` comes from."""
    return op.origin[: len(block.origin)] == block.origin


def wl_hash(graph: Graph) -> str:
    """Weisfeiler-Lehman hash of what the nodes do and how they are joined: a diagnostic, not an identity."""
    plain: nx.DiGraph[str] = nx.DiGraph()
    for name, op in ops(graph):
        config = "" if op.config is None else op.config.model_dump_json(by_alias=True)
        plain.add_node(name, does=f"{op.kind} {config} {op.attributes} {op.stream}")
        for slot, source in enumerate(inputs_of(graph, name)):
            slots = plain.edges[source, name]["slots"] if plain.has_edge(source, name) else ""
            plain.add_edge(source, name, slots=f"{slots} {slot}")
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The hashes produced for"
        )  # differ between versions of networkx
        return str(nx.weisfeiler_lehman_graph_hash(plain, node_attr="does", edge_attr="slots"))


def verify(graph: Graph, after: str) -> None:
    """Hold what every pass must leave behind; a violation is our mistake and names pass and node."""
    slots: dict[str, list[int]] = {name: [] for name in graph}
    order = {name: i for i, name in enumerate(graph)}
    useful: set[str] = set()
    for source, name, slot in graph.in_edges(keys=True):
        assert order[source] < order[name], f"after {after}: {name} precedes its input {source}"
        slots[name].append(int(slot))
        useful.add(source)
    n_outputs = 0
    for name, op in ops(graph):
        found = sorted(slots[name])
        assert found == [*range(len(found))], f"after {after}: {name} has slots {found}"
        is_source = op.kind in SOURCES
        assert is_source != bool(found), f"after {after}: {name} ({op.kind}) has {len(found)} inputs"
        n_outputs += op.kind == "output"
        is_read = name in useful or op.kind == "output"  # then, as there are no cycles, so is the output
        assert is_source or is_read, f"after {after}: nothing reads {name}"
    assert n_outputs == 1, f"after {after}: {n_outputs} outputs"
