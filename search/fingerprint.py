"""Short names for things that results depend on: JSON documents, and the code that computes."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

_COMPUTES = (
    "zoo",
    "compiler",
    "search.tasks",
    "search.train",
    "search.fit",
    "search.scoring",
    "search.recipe",
)


def digest(document: Any) -> str:
    """16 hexadecimal digits of a JSON document."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def code_fingerprint(plugins: tuple[str, ...] = ()) -> str:
    """The source of all that builds, trains and scores a model, plug-ins too, and the version of torch."""
    found = hashlib.sha256()
    for name in (*_COMPUTES, *plugins):
        for file in _sources(name):
            found.update(f"{name}/{file.name}".encode())
            found.update(file.read_bytes())
    return f"{found.hexdigest()[:16]}+torch{torch.__version__}"


def _sources(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} was imported before"
    if spec.submodule_search_locations is None:
        return [] if spec.origin is None else [Path(spec.origin)]
    return sorted(file for place in spec.submodule_search_locations for file in Path(place).rglob("*.py"))
