"""Graph -> text, JSON and Mermaid; GraphModule -> code for reading."""

from __future__ import annotations

import re
from typing import Any

from torch import fx

from archspec.nodes import path_text
from compiler.graph import Graph, Op, Stream, inputs_of, ops, spec_of


def as_text(graph: Graph) -> str:
    """One line per node: its name, what it is, its stream once inferred, and what feeds it."""
    rows = [
        (name, _label(op), _shape(op.stream), ", ".join(inputs_of(graph, name))) for name, op in ops(graph)
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def as_json(graph: Graph) -> dict[str, Any]:
    """The graph as plain data, nodes in order of execution; edges are each node's ``inputs``, by slot."""
    return {
        "name": spec_of(graph).name,
        "nodes": [
            {
                "name": name,
                "kind": op.kind,
                "config": None if op.config is None else op.config.model_dump(mode="json", by_alias=True),
                "module": op.module,
                "origin": path_text(op.origin),
                "stream": None if op.stream is None else _stream_json(op.stream),
                "attributes": dict(op.attributes),
                "inputs": inputs_of(graph, name),
            }
            for name, op in ops(graph)
        ],
    }


def as_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart; masks are left out, since they go everywhere."""
    shown = [(name, op) for name, op in ops(graph) if op.kind not in ("mask", "mask_view")]
    ids = {name: f"n{i}" for i, (name, _) in enumerate(shown)}
    lines = ["flowchart TD"]
    for name, op in shown:
        text = "+" if op.kind == "add" else f"{name}<br/>{_label(op)}"
        shape = ("((", "))") if op.kind == "add" else ("[", "]")
        lines.append(f'    {ids[name]}{shape[0]}"{_escaped(text)}"{shape[1]}')
    for name, op in shown:
        for source in inputs_of(graph, name):
            if source in ids:
                label = f'|"{_shape(graph.nodes[source]["op"].stream)}"|' if op.stream is not None else ""
                lines.append(f"    {ids[source]} -->{label} {ids[name]}")
    return "\n".join(lines) + "\n"


def readable_code(module: fx.GraphModule) -> str:
    """What the module runs, without the parts that only free values, indices in place of ``getattr``."""
    code = re.sub(r"; +[\w, =]+ = None", "", module.code)
    while (shorter := re.sub(r'getattr\(([\w.\[\]]+), "(\d+)"\)', r"\1[\2]", code)) != code:
        code = shorter
    code = re.sub(r"\.(\d+)\b(?=\.)", r"[\1]", code).replace("compiler_streams_", "")
    return re.sub(r"\n{2,}", "\n", re.sub(r"\bmask = (\w*mask)\)", r"mask=\1)", code)).strip() + "\n"


def _label(op: Op) -> str:
    return op.kind if op.config is None else f"{op.kind} {op.config.kind}"


def _shape(stream: Stream | None) -> str:
    if stream is None:
        return ""
    fold = f"{stream.fold} x " if stream.fold > 1 else ""
    return f"{fold}{stream.length} x {stream.width}"


def _stream_json(stream: Stream) -> dict[str, Any]:
    return {"name": stream.name, "length": stream.length, "width": stream.width, "fold": stream.fold}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")
