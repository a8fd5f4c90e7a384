"""archspec report: write a search's page and picture again, from its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a search.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; by default into DIR itself.")
    ] = None,
) -> None:
    """Write report.html and report.png of a search, finished or not; print where the page is."""
    from search import report as reports
    from search.output import filed_result
    from search.solve import load_result

    result = filed_result(load_result(folder))
    target = out or folder
    target.mkdir(parents=True, exist_ok=True)
    typer.echo(str(reports.write(result, target)))
