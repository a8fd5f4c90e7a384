"""Architectures of the public tables as numbers that tell of their structure, for a regression.

Both tables name operations by the place in which they are written. What they do depends on the graph that
they make: White et al. (BANANAS, AAAI 2021) count the paths through it, which neither names of nodes nor dead
branches change.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

Form = tuple[Any, ...]  # a node is (operation, form of its children)

_CELL_PATHS = (("0-3",), ("0-1", "1-3"), ("0-2", "2-3"), ("0-1", "1-2", "2-3"))
_NO_MESSAGE = ("fc", "skip")  # operations that look at no neighbour


def cell_features(ops: Mapping[str, str]) -> dict[str, float]:
    """Of a cell of NAS-Bench-201, ``ops`` by edge: its paths from input to output, by what is on them.

    Edges ``none`` end a path; ``skip_connect`` leaves it as it is. Operations are counted where a path runs
    through them; length is in convolutions.
    """
    live = [path for path in _CELL_PATHS if all(ops[edge] != "none" for edge in path)]
    paths = [[ops[edge] for edge in path] for path in live]
    found: Counter[str] = Counter(f"n {ops[edge]}" for edge in set().union(*live))
    found.update("path " + ">".join(op for op in path if op != "skip_connect") for path in paths)
    lengths = [sum(op.startswith("nor_conv") for op in path) for path in paths]
    return {
        **{name: float(count) for name, count in found.items()},
        "paths": float(len(paths)),
        "longest": float(max(lengths, default=0)),
        "mean length": statistics.fmean(lengths) if lengths else 0.0,
    }


def graph_features(form: Form) -> dict[str, float]:
    """Of a tree of NAS-Bench-Graph: counts of operations, also of those first and last, and of neighbours.

    With the tree's nodes, leaves and depths, and the steps over which messages reach its leaves.
    """
    paths = list(_paths(form, ()))
    leaves = [path for path, is_leaf in paths if is_leaf]
    found: Counter[str] = Counter()
    for path, is_leaf in paths:
        found[f"op {path[-1]}"] += 1
        if len(path) == 1:
            found[f"first {path[-1]}"] += 1
        else:
            found[f"pair {path[-2]} {path[-1]}"] += 1
        if is_leaf:
            found[f"last {path[-1]}"] += 1
    depths = [len(path) for path in leaves] or [0]
    steps = [sum(op not in _NO_MESSAGE for op in path) for path in leaves] or [0]
    return {
        **{name: float(count) for name, count in found.items()},
        "nodes": float(len(paths)),
        "messages": float(sum(path[-1] not in _NO_MESSAGE for path, _ in paths)),
        "beginnings": float(len(form)),
        "leaves": float(len(leaves)),
        "deepest": float(max(depths)),
        "mean depth": statistics.fmean(depths),
        "most steps": float(max(steps)),
        "least steps": float(min(steps)),
        "mean steps": statistics.fmean(steps),
    }


def _paths(nodes: Form, before: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """From the input to each node, by operation, and whether nothing follows."""
    for op, below in nodes:
        yield (*before, op), not below
        yield from _paths(below, (*before, op))
