"""Options of ``archspec search`` that say where it runs and who is told."""

from __future__ import annotations

from typing import Annotated

import typer

ExecutorOption = Annotated[
    str, typer.Option(metavar="KIND", help="Where jobs run: local, ray or submitit (SLURM).")
]
ExecutorOptionOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Of the executor: address=auto, gpus=1, partition=gpu, ..."),
]
LogOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TRACKER", help="Also log to tensorboard, mlflow or wandb (offline); repeatable."),
]
ListOption = Annotated[bool, typer.Option("--list", help="List the searches under a folder (runs/).")]
DashboardOption = Annotated[
    bool, typer.Option("--dashboard", help="Serve optuna-dashboard on a search folder or on --storage.")
]
