"""YAML 1.2 text -> Node: the core schema, nothing more, within limits that hold before anything is built."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

from archspec.errors import SpecError, shown
from archspec.nodes import MAX_ALIASES, MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES, Node, Place, Scalar

_TAG = "tag:yaml.org,2002:"
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 400


def parse_yaml(text: str, file: str, *, written: str | None = None) -> Node:
    """The one document in ``text``; anything else is a SpecError with its place.

    ``written`` is what messages quote instead, with the same places, where ``text`` was made from it.
    """
    return _Composer(text, file, written if written is not None else text).document()


class _Composer:
    """Turns parser events into nodes, counting what aliases would expand to as it goes."""

    def __init__(self, text: str, file: str, written: str):
        self.file = file
        self.lines = _LINE_BREAK.split(written.removeprefix("\ufeff"))
        if len(text) > MAX_FILE_BYTES or len(text.encode("utf-8", "replace")) > MAX_FILE_BYTES:
            self._refuse_at(1, 1, f"longer than {MAX_FILE_BYTES:,} bytes")
        self.text = text.removeprefix("\ufeff")
        self.anchors: dict[str, tuple[Node, int, int] | None] = {}  # node, expanded size, height
        self.n_nodes = 0
        self.n_aliases = 0
        self.events: Iterator[Any] = iter(())

    def document(self) -> Node:
        if (at := self.text.find("\0")) >= 0:
            self._refuse_offset(at, "a NUL character; this is not a text file")
        self.events = self._parsed()
        event = next(self.events)  # the stream's start
        event = next(self.events)
        if isinstance(event, StreamEndEvent):
            self._refuse_at(1, 1, "the file is empty", "'archspec init' writes a spec to start from")
        assert isinstance(event, DocumentStartEvent), event
        if event.version or event.tags:
            self._refuse(event, "a % directive; none is allowed here")
        node, _ = self._node(next(self.events), depth=1)
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                self._refuse(event, "a second document; one file holds one document")
        return node

    def _parsed(self) -> Iterator[Any]:
        """The parser's events; whatever it raises becomes a SpecError."""
        yaml = YAML(typ="safe", pure=True)
        try:
            yield from yaml.parse(self.text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            context = f" ({error.context})" if error.context else ""
            line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
            self._refuse_at(line, column, f"not valid YAML: {error.problem}{context}", _yaml_hint(error))
        except ReaderError as error:
            self._refuse_offset(error.position, f"the character {error.character!r} may not stand in YAML")
        except SpecError:
            raise
        except Exception as error:  # the parser itself stumbled: still the text's fault, and it needs a place
            mark = yaml.reader.get_mark()
            self._refuse_at(mark.line + 1, mark.column + 1, f"not valid YAML: {error}")

    def _node(self, event: Any, depth: int) -> tuple[Node, int]:
        """The node that begins with ``event``, and its height."""
        if depth > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, AliasEvent):
            return self._alias(event, depth)
        self.n_nodes += 1
        self._check_size(event, 0)
        size_before = self.n_nodes - 1
        if event.anchor is not None:
            self.anchors[event.anchor] = None  # known, and not finished
        if isinstance(event, ScalarEvent):
            node, height = Node(self._scalar(event), self._place(event)), 1
        else:
            self._check_tag(event, "map" if isinstance(event, MappingStartEvent) else "seq")
            compose = self._mapping if isinstance(event, MappingStartEvent) else self._sequence
            node, height = compose(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = (node, self.n_nodes - size_before, height)
        return node, height

    def _alias(self, event: Any, depth: int) -> tuple[Node, int]:
        self.n_aliases += 1
        if self.n_aliases > MAX_ALIASES:
            self._refuse(event, f"more than {MAX_ALIASES} aliases")
        if event.anchor not in self.anchors:
            self._refuse(event, f"alias '*{event.anchor}' has no anchor '&{event.anchor}' before it")
        anchored = self.anchors[event.anchor]
        if anchored is None:
            self._refuse(event, f"alias '*{event.anchor}' stands inside what it names")
        node, size, height = anchored
        self._check_size(event, size)
        self.n_nodes += size
        if depth + height - 1 > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels once its aliases are expanded")
        return node, height

    def _check_size(self, event: Any, more: int) -> None:
        if self.n_nodes + more > MAX_NODES:
            self._refuse(event, f"more than {MAX_NODES:,} nodes once its aliases are expanded")

    def _sequence(self, start: SequenceStartEvent, depth: int) -> tuple[Node, int]:
        items: list[Node] = []
        height = 1
        while not isinstance(event := next(self.events), SequenceEndEvent):
            item, below = self._node(event, depth + 1)
            items.append(item)
            height = max(height, 1 + below)
        return Node(items, self._place(start, event)), height

    def _mapping(self, start: MappingStartEvent, depth: int) -> tuple[Node, int]:
        entries: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        merged: list[Node] = []
        height = 1
        while not isinstance(event := next(self.events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                self._refuse(event, "a key must be a plain word")
            self._check_tag(event, "str")
            self.n_nodes += 1
            key, key_place = str(event.value), self._place(event)
            if event.anchor is not None:
                self.anchors[event.anchor] = (Node(key, key_place), 1, 1)
            is_merge = key == "<<" and event.style is None
            if key in entries or (is_merge and merged):
                first = f"; it stands in line {keys[key].line} already" if key in keys else ""
                self._refuse(event, f"duplicate key {shown(key)}{first}")
            value, below = self._node(next(self.events), depth + 1)
            height = max(height, 1 + below)
            if is_merge:
                merged = self._mergeable(value)
            else:
                entries[key], keys[key] = value, key_place
        for node in merged:  # what is written here wins, then the earlier of the merged mappings
            for key, value in node.entries.items():
                if key not in entries:
                    entries[key], keys[key] = value, node.keys[key]
        return Node(entries, self._place(start, event), keys), height

    def _mergeable(self, value: Node) -> list[Node]:
        nodes = value.items if isinstance(value.value, list) else [value]
        for node in nodes:
            if not isinstance(node.value, dict):
                self._refuse_at(node.place.line, node.place.column, "'<<' merges mappings only")
        return nodes

    def _scalar(self, event: Any) -> Scalar:
        text = str(event.value)
        tag = str(event.tag or "").removeprefix(_TAG)
        if tag not in {"", "str", "int", "float", "bool", "null"}:
            self._refuse(event, f"the tag {shown(str(event.tag))}; only plain values are allowed")
        if tag == "str" or (not tag and event.style is not None):
            return text
        try:
            value = plain_scalar(text)
        except ValueError as error:
            self._refuse(event, str(error))
        if tag == "float" and type(value) is int:
            return float(value)
        if tag and tag != ("null" if value is None else type(value).__name__):
            self._refuse(event, f"{shown(text)} is no {tag}")
        return value

    def _check_tag(self, event: Any, expected: str) -> None:
        if event.tag is not None and str(event.tag) != _TAG + expected:
            self._refuse(event, f"the tag {shown(str(event.tag))}; only plain values are allowed")

    def _place(self, start: Any, end: Any = None) -> Place:
        """The place of a node: underlined to its end, or to the end of its first line."""
        first, last = start.start_mark, (end or start).end_mark
        line = self.lines[first.line] if first.line < len(self.lines) else ""
        stop = last.column if last.line == first.line else len(line.split(" #")[0].rstrip())
        return Place(self.file, first.line + 1, first.column + 1, line, max(1, stop - first.column))

    def _refuse(self, event: Any, message: str) -> NoReturn:
        self._refuse_at(event.start_mark.line + 1, event.start_mark.column + 1, message)

    def _refuse_offset(self, offset: int, message: str) -> NoReturn:
        before = _LINE_BREAK.split(self.text[:offset])
        self._refuse_at(len(before), len(before[-1]) + 1, message)

    def _refuse_at(self, line: int, column: int, message: str, hint: str | None = None) -> NoReturn:
        excerpt = self.lines[line - 1] if line <= len(self.lines) else ""
        raise SpecError.at(Place(self.file, line, column, excerpt), message, hint=hint)


def plain_scalar(text: str) -> Scalar:
    """The value of an unquoted scalar by the core schema of YAML 1.2: ``no`` and ``12:30`` are strings."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise ValueError(f"a number of {len(text)} digits")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return math.nan if text[1].lower() == "n" else float(text.replace(".", ""))
    return text


def _yaml_hint(error: MarkedYAMLError) -> str | None:
    problem = str(error.problem)
    if "\\t" in problem or "\t" in problem:
        return "indent with spaces, not with tabs"
    if "mapping values are not allowed" in problem:
        return "put a text that holds ': ' in quotes, and check the indentation"
    return None
