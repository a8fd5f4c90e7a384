"""The report of a search: one self-contained HTML page and the same picture as a PNG."""

from __future__ import annotations

import os
from pathlib import Path

from search.front import SearchResult
from search.report.charts import front_chart, png
from search.report.page import render

__all__ = ["write"]


def write(result: SearchResult, out: Path) -> Path:
    """Write ``report.html`` and ``report.png`` into the folder ``out``, each whole or not at all."""
    page = out / "report.html"
    _replace(page, render(result).encode())
    _replace(out / "report.png", png(front_chart(result)))
    return page


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
