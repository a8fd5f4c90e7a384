"""Options that several verbs have."""

from __future__ import annotations

from typing import Annotated

import typer

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value: layers[0].token_mixer.d_state=64."),
]
PluginOption = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="PACKAGE", help="A package with components of your own; it is code."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document with stable keys.")]
