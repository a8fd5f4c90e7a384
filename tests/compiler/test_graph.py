"""What ``verify`` holds between passes, and that it sees each violation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archspec.spec import ModelSpec
from compiler import PASSES, Graph, Op, build_graph, compile_spec
from compiler.graph import add_op, inputs_of, ops, verify

SpecMaker = Callable[..., ModelSpec]


def cycle(graph: Graph) -> None:
    graph.add_edge("head", "norm", key=1)


def empty_slot(graph: Graph) -> None:
    graph.add_edge("stem", "layers.0.token_add", key=3)


def without_input(graph: Graph) -> None:
    graph.remove_edge("stem", "layers.0.token_norm")


def unread(graph: Graph) -> None:
    add_op(graph, "idle", Op("add"), "stem", "stem")


def two_outputs(graph: Graph) -> None:
    add_op(graph, "second", Op("output"), "head")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cycle, "norm precedes its input head"),
        (empty_slot, "layers.0.token_add has slots"),
        (without_input, r"layers.0.token_norm \(norm\) has 0 inputs"),
        (unread, "nothing reads idle"),
        (two_outputs, "2 outputs"),
    ],
)
def test_verify_names_pass_and_node(make_spec: SpecMaker, damage: Callable[[Graph], None], says: str) -> None:
    graph = build_graph(make_spec("- {token_mixer: attention}"))
    verify(graph, "test")
    damage(graph)
    with pytest.raises(AssertionError, match=f"after test: .*{says}"):
        verify(graph, "test")


def test_inputs_come_in_slot_order_whatever_the_order_of_edges(make_spec: SpecMaker) -> None:
    graph = build_graph(make_spec("- {token_mixer: attention}"))
    graph.add_node("late", op=Op("add"))
    graph.add_edge("norm", "late", key=1)
    graph.add_edge("stem", "late", key=2)
    graph.add_edge("norm", "late", key=0)
    assert inputs_of(graph, "late") == ["norm", "norm", "stem"]


def test_passes_are_watched_in_their_order(make_spec: SpecMaker) -> None:
    seen: list[tuple[str, bool]] = []

    def watch(name: str, graph: Graph) -> None:
        seen.append((name, all(op.stream is not None for _, op in ops(graph))))

    compile_spec(make_spec("- {token_mixer: attention}"), watch=watch)
    assert [name for name, _ in seen] == list(PASSES)
    assert [typed for _, typed in seen] == [False, True, True, True, True]
