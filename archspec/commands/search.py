"""archspec search: run a study, or go on with it."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from archspec.commands._front_view import front_table, result_console, trial_line
from archspec.commands._options import JsonOption, PluginOption, SetOption
from archspec.commands._plugins import importable

if TYPE_CHECKING:
    from search.driver import Event
    from search.front import SearchResult


def search(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")],
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
        str | None, typer.Option(metavar="URL", help="Mirror the search as an Optuna study there.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be searched and how long it would take.")
    ] = False,
    set_: SetOption = None,
    plugin: PluginOption = None,
    json_: JsonOption = False,
) -> None:
    """Search a space within hard budgets. The same command goes on where a search was stopped or killed."""
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
    with _Progress() as progress:
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
                listen=progress.hear,
                command=command,
            )
        except KeyboardInterrupt:
            progress.close()
            safe = f"{progress.n_trained} trained candidates are safe in {folder}"
            _say(f"stopped; {safe}. Go on with\n  {command}")
            raise typer.Exit(130) from None
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


class _Progress:
    """On stderr: the present front and what is being done, or one line per trial where it is no terminal."""

    def __init__(self) -> None:
        self.n_trained = 0
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._latest: SearchResult | None = None
        self._doing: list[str] = []

    def __enter__(self) -> _Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def hear(self, event: Event) -> None:
        """Show an event."""
        self.n_trained = event.n_trained
        if event.trial is not None and event.trial.status in ("done", "failed") and event.result is not None:
            self._latest = event.result()
        if self._console.is_terminal:
            self._doing = [*self._doing, event.text][-4:] if event.text else self._doing
            head = Text(f"{event.n_trained} of {event.n_wanted} candidates trained", style="bold")
            doing = Text("\n".join(self._doing), style="dim")
            front = [front_table(self._latest, most=10)] if self._latest is not None else []
            self._live.update(Group(head, *front, doing))
        elif event.trial is not None:
            if event.trial.status in ("done", "failed") and self._latest is not None:
                line = trial_line(self._latest.row(event.trial.number))
                _say(f"[{event.n_trained}/{event.n_wanted}] {line}")
        elif event.kind != "job" and event.text:
            _say(event.text)
