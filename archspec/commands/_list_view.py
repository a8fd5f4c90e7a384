"""``archspec search --list``: the searches under a folder."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from archspec.commands._front_view import result_console
from archspec.quantities import show


def show_list(root: Path, *, as_json: bool) -> None:
    """One line per search, the one that changed last first."""
    from search.listing import list_searches

    found = list_searches(root)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in found], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("folder", "study", "state", "trained", "front", "best", "changed"):
        table.add_column(name, justify="right" if name in ("trained", "front") else "left")
    for entry in found:
        best = "" if entry.best is None else f"{entry.objective} {show(entry.objective, entry.best)}"
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed))
        cells = (entry.folder, entry.study, entry.state, str(entry.trained), str(entry.front), best, changed)
        table.add_row(*map(Text, cells))
    result_console().print(table if found else Text(f"no search under {root}"))
