"""archspec show: a spec as it is understood, once everything it extends and overrides is settled."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.syntax import Syntax

from archspec.commands._options import JsonOption, PluginOption, SetOption
from archspec.commands._plugins import importable
from archspec.dump import dump_spec, written
from archspec.identity import spec_hash
from archspec.spec import n_expanded
from archspec.strip import strip


def show(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="The model's YAML file.")],
    graph: Annotated[
        Literal["text", "mermaid", "json"] | None, typer.Option(help="Print the compiler's graph instead.")
    ] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Spell out every default.")] = False,
    set_: SetOption = None,
    plugin: PluginOption = None,
    json_: JsonOption = False,
) -> None:
    """Show a spec resolved: its layers on one line, then as YAML; or the graph that it means."""
    from compiler import build_graph, load_spec
    from compiler.render import as_json, as_mermaid, as_text

    model = load_spec(spec, overrides=set_ or (), plugins=importable(plugin or ()))
    if graph is not None:
        built = build_graph(model)
        match graph:
            case "text":
                typer.echo(as_text(built), nl=False)
            case "mermaid":
                typer.echo(as_mermaid(built), nl=False)
            case "json":
                typer.echo(json.dumps(as_json(built), indent=2))
        return
    if json_:
        tree = model.model_dump(mode="json", by_alias=True) if defaults else written(model)
        document = {
            "name": model.name,
            "hash": spec_hash(model),
            "n_layers": n_expanded(model.layers),
            "n_encoder_layers": n_expanded(model.encoder.layers) if model.encoder else 0,
            "layers": strip(model),
            "spec": tree,
        }
        typer.echo(json.dumps(document, indent=2))
        return
    comment = f"{strip(model)}\nhash {spec_hash(model)[:12]}"
    text = dump_spec(model, comment=comment, defaults=defaults)
    if Console().is_terminal:
        Console().print(Syntax(text, "yaml", background_color="default", word_wrap=True))
    else:
        typer.echo(text, nl=False)
