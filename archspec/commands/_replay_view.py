"""archspec search --replay: what was derived again, and every difference, on stdout."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from archspec.commands._front_view import result_console
from archspec.errors import printable


def print_replay(folder: Path, *, json_: bool) -> None:
    """Replay the search in ``folder``; exit code 1 where something differs."""
    from search.replay import replay

    found = replay(folder)
    front = [row.trial for row in found.result.front]
    if json_:
        document = {
            "same": not found.differences,
            "front": front,
            "n_compiled": found.n_compiled,
            "differences": [asdict(difference) for difference in found.differences],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        console = result_console()
        for difference in found.differences:
            console.print(Text(printable(str(difference))), soft_wrap=True)
        told = f"{len(found.differences)} differences" if found.differences else "everything is as it was"
        console.print(Text(f"{len(front)} on the front of {len(found.result.trained)} trained: {told}"))
        Console(stderr=True).print(Text(f"hash and costs of {found.n_compiled} specs computed again"))
    if found.differences:
        raise typer.Exit(1)
