"""archspec front: the Pareto front of a search, solved from its ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from archspec.commands._card_view import card_view, chosen_cards
from archspec.commands._front_view import front_table, result_console
from archspec.commands._options import JsonOption

if TYPE_CHECKING:
    from search.front import SearchResult
    from search.other_budgets import Moves


def front(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a search.")],
    member: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="With --explain: one member alone.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Each member's nearest baseline, neighbours and layers swapped back."),
    ] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT", help="Solve again under 'params<=200k', or 'params=none'; nothing runs."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show the front of a search, finished or not, under the budgets of its last run or under others."""
    from search.other_budgets import resolve_under
    from search.solve import load_result

    if member is not None and not explain:
        raise typer.BadParameter("a NAME goes with --explain", param_hint="NAME")
    moves = resolve_under(folder, budget) if budget else None
    result = load_result(folder) if moves is None else moves.result
    if explain:
        _explain(result, member, json_=json_)
    elif json_:
        _as_json(result, folder)
    else:
        _print(result, moves)


def _explain(result: SearchResult, member: str | None, *, json_: bool) -> None:
    told = chosen_cards(result, member)
    if json_:
        typer.echo(json.dumps([card.as_json() for card in told], indent=2))
        return
    console = result_console()
    for card in told:
        console.print(card_view(card, result))


def _as_json(result: SearchResult, folder: Path) -> None:
    from search.output import front_json

    rows = front_json(result)
    for row in rows:
        file = folder / row["spec"]
        row["spec"] = str(file) if file.is_file() else None
    typer.echo(json.dumps(rows, indent=2))


def _print(result: SearchResult, moves: Moves | None) -> None:
    console = result_console()
    console.print(front_table(result))
    console.print(Text(result.verdict.sentence))
    if moves is not None:
        limits = ", ".join(f"{limit.quantity} {limit.text}" for limit in result.budgets) or "no budget"
        console.print(
            Text(f"under {limits}: {_listed('enters', moves.entered)}, {_listed('leaves', moves.left)}")
        )
        for text in moves.unseen:
            console.print(Text(text))
    state = "" if result.complete else " (not finished: the same search command goes on)"
    Console(stderr=True).print(Text(f"{result.study}: {result.stopped}{state}"))


def _listed(verb: str, trials: tuple[int, ...]) -> str:
    return f"{verb} trial {', '.join(map(str, trials))}" if trials else f"nobody {verb}"
