"""Short names for things that results depend on: JSON documents, and the code that computes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from compiler.source_hash import source_hash

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


def code_fingerprint(plugins: tuple[str, ...] = ()) -> str:
    """The source of all that builds, trains and scores a model, plug-ins too, and the version of torch."""
    return f"{source_hash((*_COMPUTES, *plugins))}+torch{torch.__version__}"
