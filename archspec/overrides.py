"""``--set layers[0].token_mixer.d_state=64``: a path and a YAML value laid over the tree."""

from __future__ import annotations

import re
from typing import NoReturn

from archspec.errors import SpecError
from archspec.nodes import MAX_DEPTH, Node, Path, Place, path_text
from archspec.yaml_text import parse_yaml

COMMAND_LINE = "(command line)"
_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_\-]*)|\[([0-9]{1,9})\]")


def override(root: Node, text: str) -> Node:
    """``root`` with one value replaced or added; a bare kind on the way becomes a mapping."""
    return _replaced(root, (), parse_path(text), _value(text), text)


def parse_path(text: str) -> Path:
    """The path before the ``=`` of an override."""
    name, equals, _ = text.partition("=")
    if not equals:
        _refuse(text, 0, "an override has the form path=value", hint="as in --set d_model=256")
    parts: list[str | int] = []
    position = 0
    while position < len(name):
        step = _STEP.match(name, position)
        starts_with_dot = name[position] == "."
        if step is None or (starts_with_dot and position == 0):
            _refuse(text, position, "not a path; a path has the form layers[0].token_mixer.d_state")
        if position > 0 and step[1] is not None and not starts_with_dot:
            _refuse(text, position, "a '.' is missing here")
        parts.append(step[1] if step[1] is not None else int(step[2]))
        position = step.end()
    if not parts or len(parts) > MAX_DEPTH // 2:
        _refuse(text, 0, "an override has the form path=value", hint="as in --set d_model=256")
    return tuple(parts)


def _value(text: str) -> Node:
    """The YAML value after the ``=``, with its places in the override's own text."""
    if "\n" in text or "\r" in text:
        _refuse(text, 0, "an override is one line")
    offset = text.index("=") + 1
    if not text[offset:].strip():
        _refuse(text, offset - 1, "no value after the '='", hint="write null if that is meant")
    return parse_yaml(" " * offset + text[offset:], COMMAND_LINE, written=text)


def _replaced(node: Node | None, done: Path, path: Path, value: Node, text: str) -> Node:
    if not path:
        return value
    part, here = path[0], path_text(done) or "the file"
    place = Place(COMMAND_LINE, 1, 1, text, max(1, text.index("=")))
    if isinstance(part, int):
        if node is None or not isinstance(node.value, list):
            _refuse(text, 0, f"{here} is no list", width=place.width)
        if part >= len(node.value):
            _refuse(text, 0, f"{here} has {len(node.value)} items, so no [{part}]", width=place.width)
        items = list(node.value)
        items[part] = _replaced(items[part], (*done, part), path[1:], value, text)
        return Node(items, node.place)
    if node is None:
        node = Node({}, place)
    elif isinstance(node.value, str) and done:
        node = Node({"kind": node}, node.place, {"kind": node.place})
    if not isinstance(node.value, dict):
        hint = f"write {here}[0] for its first item" if isinstance(node.value, list) else None
        _refuse(text, 0, f"{here} has no fields, so no '{part}'", hint=hint, width=place.width)
    child = _replaced(node.value.get(part), (*done, part), path[1:], value, text)
    return node.with_entries({**node.value, part: child}, {**node.keys, part: place})


def _refuse(text: str, column: int, message: str, *, hint: str | None = None, width: int = 1) -> NoReturn:
    raise SpecError.at(Place(COMMAND_LINE, 1, column + 1, text, width), message, hint=hint)
