"""ModelSpec -> Graph -> CompiledModel: the passes in their order."""

from __future__ import annotations

from collections.abc import Callable

from archspec.spec import ModelSpec
from compiler.causality_gate import causality_gate
from compiler.graph import Graph, verify
from compiler.model import CompiledModel
from compiler.passes.check import check
from compiler.passes.expand import expand
from compiler.passes.infer_shapes import infer_shapes
from compiler.passes.lower import lower
from zoo import Zoo, load_zoo

Watch = Callable[[str, Graph], None]
PASSES = ("expand", "infer_shapes", "check", "lower", "causality_gate")


def build_graph(spec: ModelSpec, *, zoo: Zoo | None = None, watch: Watch | None = None) -> Graph:
    """The checked graph of ``spec``, without weights; SpecError if something does not fit.

    ``watch(name, graph)`` is called after each pass. ``zoo`` is not needed as long as nothing is built.
    """
    graph = expand(spec)
    _passed("expand", graph, watch)
    for name, run in (("infer_shapes", infer_shapes), ("check", check)):
        graph = run(graph)
        _passed(name, graph, watch)
    return graph


def compile_spec(
    spec: ModelSpec,
    *,
    seed: int = 0,
    device: str = "cpu",
    gate: bool = True,
    zoo: Zoo | None = None,
    watch: Watch | None = None,
) -> CompiledModel:
    """A model with fresh weights that depend on ``seed`` alone; ``gate=False`` leaves causality untested."""
    zoo = load_zoo() if zoo is None else zoo
    graph = build_graph(spec, zoo=zoo, watch=watch)
    module = lower(graph, zoo, seed=seed)
    _passed("lower", graph, watch)
    if gate:
        causality_gate(graph, module, zoo)
        _passed("causality_gate", graph, watch)
    return CompiledModel(graph=graph, module=module, zoo=zoo, seed=seed).to(device)


def _passed(name: str, graph: Graph, watch: Watch | None) -> None:
    verify(graph, name)
    if watch is not None:
        watch(name, graph)
