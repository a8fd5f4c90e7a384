"""Options that several verbs have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from archspec.errors import SpecError

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value: layers[0].token_mixer.d_state=64."),
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="PACKAGE", help="A package with components of your own; it is code."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document with stable keys.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: CUDA if there is one.")]
ClockOption = Annotated[
    str, typer.Option(help="On a CPU: wall, or cpu for the CPU time of the one thread. CUDA has its events.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="CPU threads; one is the steadiest.")]

TableOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The latency table (SQLite); by default one in the user's cache."),
]
BackendOption = Annotated[
    str,
    typer.Option(help="eager, compile (torch.compile) or graph (CUDA graph replay); each has its entries."),
]
StatisticOption = Annotated[
    str, typer.Option(help="median, or lower_quartile for tiny models on a busy machine.")
]


def refuse_unused(context: typer.Context, needs: Mapping[str, tuple[str, ...]]) -> None:
    """SpecError for an option that was given, though none of those that it belongs to was.

    ``needs`` has the parameter's name, and the names of the parameters that read it.
    """
    for name, readers in needs.items():
        source = context.get_parameter_source(name)
        if (
            source is None
            or source.name != "COMMANDLINE"
            or any(context.params[reader] for reader in readers)
        ):
            continue
        option, *others = (f"--{word.replace('_', '-')}" for word in (name, *readers))
        raise SpecError(f"{option} means nothing without {' or '.join(others)}")
