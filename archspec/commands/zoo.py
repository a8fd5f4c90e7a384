"""archspec zoo: the components there are, and the contract that a plug-in's components must keep."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archspec.commands._options import JsonOption, PluginOption
from archspec.commands._plugins import importable
from archspec.config import Capabilities
from archspec.errors import SpecError, printable

if TYPE_CHECKING:
    from zoo import Zoo

app = typer.Typer(help="List the components, or check those of a plug-in.", invoke_without_command=True)


@app.callback()
def zoo(context: typer.Context, plugin: PluginOption = None, json_: JsonOption = False) -> None:
    """List the components that a spec may name, with what they can do."""
    if context.invoked_subcommand is not None:
        return
    from zoo import load_zoo

    rows = list(_rows(load_zoo(importable(plugin or ()))))
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("kind", "role", "causal", "decode", "length", "complexity", "paper")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(row[column]))) for column in columns))
    Console(width=None if Console().is_terminal else 160).print(table)


def _rows(table: Zoo) -> Iterator[dict[str, Any]]:
    for role, kinds in table.classes.items():
        for kind, cls in sorted(kinds.items()):
            can = cls.examples[0].capabilities()  # the contract asks for examples
            yield {
                "kind": kind,
                "role": role,
                "paper": cls.Config.paper,
                "causal": can.causal,
                "decode": can.decode,
                "length": _length(can),
                "complexity": can.complexity,
            }


def _length(can: Capabilities) -> str:
    if can.length_at_most is not None:
        return f"at_most({can.length_at_most})"
    return f"multiple_of({can.length_multiple_of})" if can.length_multiple_of > 1 else "any"


@app.command("check")
def check(
    package: Annotated[str, typer.Argument(help="A package with components; its code is run.")],
    json_: JsonOption = False,
) -> None:
    """Run the component contract on a plug-in: values, gradients, causality, decoding, parameters, cost."""
    from compiler.cost.fvcore_check import count_macs
    from zoo import load_zoo
    from zoo.checks import run_checks

    table = load_zoo(importable((package,)))
    outcomes = list(run_checks(table, package, count_macs=count_macs))
    if not outcomes:
        raise SpecError(f"package '{package}' brings no components with examples")
    failures = [outcome for outcome in outcomes if outcome.error is not None]
    if json_:
        failed = [
            {
                "component": failure.component,
                "case": failure.case,
                "check": failure.check,
                "error": str(failure.error),
            }
            for failure in failures
        ]
        document = {"ok": not failures, "checks": len(outcomes), "failures": failed}
        typer.echo(json.dumps(document, indent=2))
    else:
        console = Console(soft_wrap=True, highlight=False)
        for case, group in groupby(outcomes, key=lambda outcome: outcome.case or outcome.component):
            wrong = [outcome for outcome in group if outcome.error is not None]
            mark = ("fail", "bold red") if wrong else ("ok  ", "bold green")
            console.print(Text.assemble(mark, f"  {printable(case)}"))
            for outcome in wrong:
                told = [printable(line) for line in str(outcome.error).splitlines()]
                console.print(Text(f"        {outcome.check}: " + "\n          ".join(told)))
        console.print(f"{len(outcomes)} checks, {len(failures)} failed")
    raise typer.Exit(1 if failures else 0)
