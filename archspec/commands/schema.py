"""archspec schema: the JSON Schema that an editor needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from archspec import schemas as folder
from archspec.commands._options import PluginOption
from archspec.commands._plugins import importable
from archspec.schema import NAMES, Name, committed, generated


def schema(
    name: Annotated[Name, typer.Argument(help="Which one.")] = "spec",
    write: Annotated[
        bool, typer.Option("--write", help="Make all three anew from the components present.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --write: the folder to write to.")] = None,
    plugin: PluginOption = None,
) -> None:
    """Print the JSON Schema of specs, spaces or studies.

    Editors read it with a first line such as  # yaml-language-server: $schema=spec.schema.json
    """
    if not write and not plugin:
        typer.echo(committed(name), nl=False)
        return
    from search.tasks import load_tasks
    from zoo import load_zoo

    plugins = importable(plugin or ())
    components, tasks = load_zoo(plugins).components, load_tasks(plugins).configs
    if not write:
        typer.echo(generated(name, components, tasks), nl=False)
        return
    target = out or Path(str(folder.__path__[0]))
    target.mkdir(parents=True, exist_ok=True)
    for each in NAMES:
        path = target / f"{each}.schema.json"
        path.write_text(generated(each, components, tasks), encoding="utf-8")
        typer.echo(str(path))
