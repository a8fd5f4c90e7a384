"""``archspec search --dashboard``: optuna-dashboard on a search folder, or on its mirror."""

from __future__ import annotations

from pathlib import Path

import typer


def serve_dashboard(study: Path | None, out: Path | None, storage: str | None) -> None:
    """Serve until Ctrl-C. The folder is --out, or a positional folder; a study's file means runs/NAME."""
    from search.dashboard import serve

    folder = out or study
    if out is None and study is not None and study.is_file():
        from archspec.source import load_source

        folder = Path("runs") / str(load_source(study).tree.get("study", study.stem))
    if folder is None and storage is None:
        raise typer.BadParameter("name the folder of a search, or --storage", param_hint="DIR")
    serve(folder, storage, say=lambda text: typer.echo(text, err=True))
