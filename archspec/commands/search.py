"""archspec search: run a study, or go on with it."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from archspec.commands._dashboard import serve_dashboard
from archspec.commands._front_view import front_table, result_console
from archspec.commands._list_view import show_list
from archspec.commands._options import JsonOption, PluginOption, SetOption
from archspec.commands._plugins import importable
from archspec.commands._replay_view import print_replay
from archspec.commands._search_events import event_lines
from archspec.commands._search_options import (
    DashboardOption,
    ExecutorOption,
    ExecutorOptionOption,
    ListOption,
    LogOption,
)
from archspec.commands._search_progress import Progress

if TYPE_CHECKING:
    from search.driver import Event
    from search.front import SearchResult


def search(
    study: Annotated[
        Path | None,
        typer.Argument(
            metavar="STUDY",
            help="The study's YAML file; for --list and --dashboard, a folder.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the search; by default runs/STUDY.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates to train.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds for the trials; the front's last checks come after.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of proposals, weights and data.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train; by default one per core, one on CUDA.")
    ] = None,
    proposer: Annotated[
        str | None, typer.Option(help="predictor (the default), evolution, tpe, nsga2, gp or random.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Mirror the search there for Optuna; on PostgreSQL the ledger too."),
    ] = None,
    executor: ExecutorOption = "local",
    executor_option: ExecutorOptionOption = None,
    log: LogOption = None,
    list_: ListOption = False,
    dashboard: DashboardOption = False,
    with_random: Annotated[
        bool, typer.Option("--with-random", help="Train as many random candidates afterwards, to compare.")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Repeat byte for byte: one worker, nothing read off a clock."),
    ] = False,
    events: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Write every event there as a line of JSON; - is stdout."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Derive the front of a search again; say which files differ."),
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Take over what an earlier search found; may be given again."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be searched and how long it would take.")
    ] = False,
    set_: SetOption = None,
    plugin: PluginOption = None,
    json_: JsonOption = False,
) -> None:
    """Search a space within hard budgets. The same command goes on where a search was stopped or killed.

    With --replay nothing runs: the exit code is 1 where a file is not what the ledger says.
    """
    if list_:
        show_list(study or Path("runs"), as_json=json_)
        return
    if dashboard:
        serve_dashboard(study, out, storage)
        return
    if replay is not None:
        print_replay(replay, json_=json_)
        return
    if study is None:
        raise typer.BadParameter("a STUDY, or --replay DIR", param_hint="STUDY")
    from search.load import load_study
    from search.output import front_json
    from search.start import preview, run

    plugins = importable(plugin or ())
    loaded = load_study(study, overrides=set_ or (), plugins=plugins)
    folder = out or Path("runs") / loaded.study.study
    if dry_run:
        seen = preview(loaded, out=folder, trials=trials, seed=seed, workers=workers)
        typer.echo(json.dumps(asdict(seen), indent=2) if json_ else "\n".join(seen.lines))
        return
    command = shlex.join(["archspec", *sys.argv[1:]])
    with Progress() as progress, event_lines(events) as tell:

        def listen(event: Event) -> None:
            tell(event)
            progress.hear(event)

        try:
            result = run(
                loaded,
                out=folder,
                trials=trials,
                timeout=timeout,
                seed=seed,
                workers=workers,
                proposer=proposer,
                storage=storage,
                executor=executor,
                executor_options=executor_option or (),
                log=log or (),
                with_random=with_random,
                deterministic=deterministic,
                listen=listen,
                command=command,
                reuse=reuse or (),
            )
        except KeyboardInterrupt:
            progress.close()
            safe = f"{progress.n_trained} trained candidates are safe in {folder}"
            _say(f"stopped; {safe}. Go on with\n  {command}")
            raise typer.Exit(130) from None
    if events == "-":
        return  # its last line is the front
    if json_:
        rows = [row | {"spec": str(folder / row["spec"])} for row in front_json(result)]
        typer.echo(json.dumps(rows, indent=2))
    else:
        _print(result, folder)


def _print(result: SearchResult, folder: Path) -> None:
    """The front, what stands beside it, the verdict, and where everything is."""
    console = result_console()
    console.print(front_table(result))
    for text in result.text_baselines:
        console.print(Text(f"{text.task} {text.split}: {text.name} {text.bits_per_byte:.3f} bits per byte"))
    for name, n in (*result.refusals.items(), *result.failures.items()):
        console.print(Text(f"{n} turned away or failed: {name}"), style="dim")
    console.print(Text(result.verdict.sentence))
    console.print(Text(f"{result.stopped}; report: {folder / 'report.html'}"), soft_wrap=True)


def _say(text: str) -> None:
    Console(stderr=True).print(Text(text), soft_wrap=True)
