"""A tree as it was written: plain values, each with the place where it (and its key) stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Scalar = str | int | float | bool | None
Path = tuple[str | int, ...]

MAX_FILE_BYTES = 1 << 20
MAX_NODES = 100_000  # after aliases are expanded
MAX_DEPTH = 64
MAX_ALIASES = 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: 1-based line and column, the source line, how many characters to underline."""

    file: str
    line: int
    column: int
    excerpt: str
    width: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, a list of nodes, or a mapping of nodes whose ``keys`` have places of their own."""

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    keys: Mapping[str, Place] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def entries(self) -> dict[str, Node]:
        """The mapping's entries; empty where the node is no mapping."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The list's items; empty where the node is no list."""
        return self.value if isinstance(self.value, list) else []

    def child(self, key: str | int) -> Node | None:
        """The node under ``key`` or at an index, if there is one."""
        if isinstance(key, str):
            return self.entries.get(key)
        return self.items[key] if 0 <= key < len(self.items) else None

    def with_entries(self, entries: dict[str, Node], keys: Mapping[str, Place]) -> Node:
        """The same mapping with other entries."""
        return Node(entries, self.place, keys)


def plain(node: Node) -> Any:
    """The bare dicts, lists and scalars of ``node``."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every node with its path, parents first, in the order of the text."""
    yield path, node
    for key, child in node.entries.items():
        yield from walk(child, (*path, key))
    for index, child in enumerate(node.items):
        yield from walk(child, (*path, index))


def path_text(path: Path) -> str:
    """``("layers", 0, "token_mixer")`` -> ``layers[0].token_mixer``, the one form of a path everywhere."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
