"""The quest: tasks, training, and a constrained search down to a front of specs that compile.

``search.run`` and ``search.load_result`` are imported when they are asked for: a worker needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.solve import load_result
    from search.start import run

__all__ = ["load_result", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from search.start import run

        return run
    if name == "load_result":
        from search.solve import load_result

        return load_result
    raise AttributeError(f"module 'search' has no attribute {name!r}")
