"""archspec compile: a spec becomes a model with fresh weights, in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from archspec.commands import print_problems
from archspec.commands._options import PluginOption, SetOption
from archspec.commands._plugins import importable
from archspec.errors import SpecError, did_you_mean, printable
from archspec.source import load_source

if TYPE_CHECKING:
    from compiler import Graph


def compile_(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="The model's YAML file.")],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="DIR", help="The folder to write; new, empty, or ours."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the fresh weights.")] = 0,
    print_after: Annotated[
        list[str] | None,
        typer.Option(
            "--print-after", metavar="PASS", help="Print the graph after a pass; 'lower' prints code."
        ),
    ] = None,
    set_: SetOption = None,
    plugin: PluginOption = None,
) -> None:
    """Compile a spec, test the causality it promises, write graph, code and weights; or print the code."""
    from compiler import PASSES, compile_spec, resolve
    from compiler.causality_gate import LARGEST_WHOLE_MODEL
    from compiler.render import as_text
    from zoo import load_zoo

    for name in print_after or ():
        if name not in PASSES:
            raise SpecError(f"unknown pass '{name}'", path="--print-after", hint=did_you_mean(name, PASSES))

    def watch(name: str, graph: Graph) -> None:
        if name in (print_after or ()) and name != "lower":
            typer.echo(f"# after {name}\n{as_text(graph)}")

    zoo = load_zoo(importable(plugin or ()))
    model = compile_spec(
        resolve(load_source(spec, overrides=set_ or ()), zoo), seed=seed, zoo=zoo, watch=watch
    )
    if model.warnings:
        print_problems(SpecError(problems=model.warnings), severity="warning")
    if out is None or "lower" in (print_after or ()):
        typer.echo(model.code, nl=False)
    if out is not None:
        model.save(out)
        n_params = sum(p.numel() for p in model.parameters())
        tested = "causality" if n_params <= LARGEST_WHOLE_MODEL else "causality of every layer"
        causality = f", {tested} tested by perturbation" if model.spec.causal else ""
        Console(stderr=True, highlight=False).print(
            f"{model.hash[:12]}: {n_params:,} parameters{causality}", markup=False
        )
        typer.echo(printable(out))
