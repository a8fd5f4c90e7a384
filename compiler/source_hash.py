"""A short name for the code that computed something."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path


@functools.cache
def source_hash(names: tuple[str, ...]) -> str:
    """16 hexadecimal digits of the source of modules and packages, which need not be imported yet."""
    found = hashlib.sha256()
    for name in names:
        for file in _sources(name):
            found.update(f"{name}/{file.name}".encode())
            found.update(file.read_bytes())
    return found.hexdigest()[:16]


def _sources(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} was imported before"
    if spec.submodule_search_locations is None:
        return [] if spec.origin is None else [Path(spec.origin)]
    return sorted(file for place in spec.submodule_search_locations for file in Path(place).rglob("*.py"))
