"""archspec front: the Pareto front of a search, solved from its ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from archspec.commands._front_view import front_table, result_console
from archspec.commands._options import JsonOption


def front(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a search.")],
    json_: JsonOption = False,
) -> None:
    """Show the front of a search, finished or not, under the budgets of its last run."""
    from search.output import front_json
    from search.solve import load_result

    result = load_result(folder)
    if json_:
        rows = front_json(result)
        for row in rows:
            file = folder / row["spec"]
            row["spec"] = str(file) if file.is_file() else None
        typer.echo(json.dumps(rows, indent=2))
        return
    console = result_console()
    console.print(front_table(result))
    console.print(Text(result.verdict.sentence))
    state = "" if result.complete else " (not finished: the same search command goes on)"
    Console(stderr=True).print(Text(f"{result.study}: {result.stopped}{state}"))
