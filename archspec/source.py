"""A file as the language reads it: the plain tree, and the place in the text of every value and key.

``extends: other.yaml`` and ``--set path=value`` are settled here, so that everything after sees one tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any

from archspec.errors import Problem, SpecError, shown
from archspec.nodes import MAX_FILE_BYTES, Node, Path, Place, path_text, plain
from archspec.overrides import override
from archspec.yaml_text import parse_yaml

_MAX_EXTENDS = 16


@dataclass(frozen=True)
class Source:
    """What was written: a tree of nodes that know their places."""

    root: Node
    file: str

    @cached_property
    def tree(self) -> Any:
        """The plain tree: dicts, lists and scalars."""
        return plain(self.root)

    def place(self, path: Path, *, of_key: bool = False) -> Place:
        """The place of the value at ``path``, or of its key; where it is absent, of what is around it."""
        node, place = self.root, self.root.place
        for step, part in enumerate(path):
            child = node.child(part)
            if child is None:
                break
            is_last = step == len(path) - 1
            place = node.keys[part] if of_key and is_last and part in node.keys else child.place  # type: ignore[index]
            node = child
        return place

    def problem(self, path: Path, message: str, hint: str | None = None, *, of_key: bool = False) -> Problem:
        """A problem with the value at ``path``, or with its key."""
        return Problem.at(self.place(path, of_key=of_key), message, path=path_text(path), hint=hint)

    def error(self, path: Path, message: str, hint: str | None = None, *, of_key: bool = False) -> SpecError:
        """The problem alone as an error."""
        return SpecError(problems=[self.problem(path, message, hint, of_key=of_key)])


def load_source(
    path: str | os.PathLike[str], *, overrides: Iterable[str] = (), root: FilePath | None = None
) -> Source:
    """A YAML file, what it extends, and ``--set`` overrides -> Source.

    Nothing outside ``root`` is read: by default the nearest folder above that holds ``.git`` or
    ``pyproject.toml``, or else the file's own folder.
    """
    file = FilePath(path)
    real = _resolved(file)
    node = parse_yaml(_read(real, str(path)), str(path))
    root = root.resolve() if root is not None else _project_root(real)
    node = _extended(node, str(path), real, root, (real,))
    return _overridden(node, str(path), overrides)


def parse_source(text: str, *, file: str = "<text>", overrides: Iterable[str] = ()) -> Source:
    """YAML text -> Source; a text has no folder, so it cannot extend a file."""
    node = parse_yaml(text, file)
    if "extends" in node.entries:
        raise SpecError.at(node.keys["extends"], "a text cannot extend a file", path="extends")
    return _overridden(node, file, overrides)


def _overridden(node: Node, file: str, overrides: Iterable[str]) -> Source:
    if not isinstance(node.value, dict):
        raise SpecError.at(
            node.place, f"a mapping must stand here, not {shown(plain(node))}", hint="it begins 'archspec: 1'"
        )
    for text in overrides:
        node = override(node, text)
    return Source(node, file)


def _read(real: FilePath, name: str) -> str:
    try:
        mode = real.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SpecError("this is a folder, not a file", file=name)
        if not stat.S_ISREG(mode):
            raise SpecError("this is not a regular file", file=name)
        with real.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SpecError(_os_message(error), file=name) from error
    if len(data) > MAX_FILE_BYTES:
        raise SpecError(f"longer than {MAX_FILE_BYTES:,} bytes", file=name, line=1, column=1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8").split("\n")
        raise SpecError(
            f"byte 0x{data[error.start]:02x} is not UTF-8",
            file=name,
            line=len(before),
            column=len(before[-1]) + 1,
        ) from error


def _resolved(file: FilePath) -> FilePath:
    try:
        return file.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SpecError(_os_message(error), file=str(file)) from error


def _os_message(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _project_root(real: FilePath) -> FilePath:
    for folder in real.parents:
        if (folder / ".git").exists() or (folder / "pyproject.toml").is_file():
            return folder
    return real.parent


def _extended(node: Node, file: str, real: FilePath, root: FilePath, seen: tuple[FilePath, ...]) -> Node:
    """``node`` laid over the file that it extends."""
    if "extends" not in node.entries:
        return node
    target, place = node.entries["extends"].value, node.entries["extends"].place

    def refuse(message: str, hint: str | None = None) -> SpecError:
        return SpecError.at(place, message, path="extends", hint=hint)

    if not isinstance(target, str) or not target:
        raise refuse("must be the path of one YAML file")
    if FilePath(target).is_absolute():
        raise refuse("must be a path relative to this file")
    try:
        base_real = (real.parent / target).resolve()
        inside = base_real.is_relative_to(root)
        exists = inside and base_real.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise refuse(_os_message(error)) from error
    if not inside:
        raise refuse(f"{shown(target)} lies outside the project", "only files of the same project are read")
    if not exists:
        raise refuse(f"no such file: {shown(target)}")
    if base_real in seen:
        raise refuse(f"{shown(target)} extends this file in turn")
    if len(seen) >= _MAX_EXTENDS:
        raise refuse(f"more than {_MAX_EXTENDS} files extend one another")
    base_file = os.path.normpath(FilePath(file).parent / target)
    base = parse_yaml(_read(base_real, base_file), base_file)
    if not isinstance(base.value, dict):
        raise SpecError.at(base.place, "a file that is extended must hold a mapping")
    base = _extended(base, base_file, base_real, root, (*seen, base_real))
    own = {key: child for key, child in node.entries.items() if key != "extends"}
    return merge(base, node.with_entries(own, node.keys))


def merge(base: Node, over: Node) -> Node:
    """Mappings merge, all else is replaced; so is a mapping of another ``kind``: its fields would not fit."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict) or not _same_kind(base, over):
        return over
    entries, keys = dict(base.value), dict(base.keys)
    for key, child in over.value.items():
        entries[key] = merge(entries[key], child) if key in entries else child
        keys[key] = over.keys[key]
    return over.with_entries(entries, keys)


_DECISIVE = ("kind", "parallel", "choice", "int", "float", "share", "repeat", "loop", "pattern", "fit")


def _same_kind(base: Node, over: Node) -> bool:
    if "kind" in base.entries and "kind" in over.entries:
        return bool(plain(base.entries["kind"]) == plain(over.entries["kind"]))
    ours = {key for key in _DECISIVE if key in over.entries}
    return not ours or bool(ours & base.entries.keys())
