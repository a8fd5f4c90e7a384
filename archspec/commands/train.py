"""archspec train: one spec, one task, the best of a few learning rates."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import progress as rich_progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from archspec.commands._plugins import importable
from archspec.source import load_source, parse_source
from archspec.validate import validate

if TYPE_CHECKING:
    from search.fit import Progress as TrainingProgress
    from search.recipe import Recipe
    from search.tasks import Tasks
    from search.tasks.contract import Task, TaskConfig
    from search.train import TrainResult


def train(
    spec: Annotated[Path, typer.Argument(help="The model's YAML file.")],
    task: Annotated[
        str, typer.Option("--task", help="A kind (copy, parity, mqar, text_lm), a YAML mapping, or its file.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; by default runs/SPEC-TASK.")
    ] = None,
    task_set: Annotated[
        list[str] | None, typer.Option("--task-set", help="A setting of the task: n_max=20.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value of the spec.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    lr: Annotated[list[float] | None, typer.Option(help="Learning rate; several are each tried.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples of one step.")] = None,
    recipe_set: Annotated[
        list[str] | None, typer.Option("--recipe-set", help="Another setting of the recipe: grad_clip=0.5.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and training examples.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "cpu",
    time_limit: Annotated[float | None, typer.Option(help="Seconds of training, all rates together.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where the folder's run stopped.")] = True,
    test: Annotated[bool, typer.Option("--test", help="Read the sealed test split at the end.")] = False,
    plugin: Annotated[
        list[str] | None, typer.Option(help="A package with components or tasks of your own.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a spec on one task; writes weights, learning curve and result, and goes on if it is run again."""
    from compiler import load_spec
    from compiler.device.info import resolve_device
    from search.tasks import load_tasks
    from search.train import train as train_spec
    from zoo import load_zoo

    plugins = importable(plugin or ())
    zoo, tasks = load_zoo(plugins), load_tasks(plugins)
    model_spec = load_spec(spec, overrides=set_ or (), plugins=plugins)
    task_config = _task_config(tasks, task, task_set or ())
    recipe = _recipe(recipe_set or (), steps=steps, learning_rates=lr, batch_size=batch_size)
    directory = out or Path("runs") / f"{model_spec.name}-{task_config.kind}"
    with _ctrl_c() as pressed, _Progress(recipe) as progress:
        result = train_spec(
            model_spec,
            task_config,
            recipe,
            seed=seed,
            device=str(resolve_device(device)),
            directory=directory,
            resume=resume,
            on_step=progress.step,
            interrupted=pressed,
            time_limit=time_limit,
            zoo=zoo,
            tasks=tasks,
        )
    if result.status == "interrupted":
        command = shlex.join(["archspec", *sys.argv[1:]])
        _say(f"stopped {result.reason}; nothing is lost, go on with\n  {command}")
        raise typer.Exit(130)
    task_itself = tasks.build(task_config, causal=model_spec.causal, seed=seed)
    figures = _finish(result, task_itself, recipe, directory, read_test=test)
    if json_:
        typer.echo(json.dumps(figures, indent=2))
    else:
        _print(figures)
    if result.status != "ok":
        _say(f"{result.status}: {result.reason}")
        raise typer.Exit(1)


def _task_config(tasks: Tasks, text: str, settings: Sequence[str]) -> TaskConfig:
    """--task and --task-set -> the task's settings; paths in a file are relative to it."""
    if text.lstrip().startswith("{"):
        return tasks.read(parse_source(text, file="--task", overrides=settings))
    if text.endswith((".yaml", ".yml")):
        return tasks.read(load_source(text, overrides=settings)).relative_to(Path(text).parent.absolute())
    return tasks.read(parse_source(json.dumps({"kind": text}), file="--task", overrides=settings))


def _recipe(settings: Sequence[str], **options: Any) -> Recipe:
    """The recipe's defaults, the options that were given over them, and --recipe-set over both."""
    from search.recipe import Recipe

    given = {key: value for key, value in options.items() if value is not None}
    return validate(Recipe, parse_source(json.dumps(given), file="--recipe-set", overrides=settings))


def _finish(
    result: TrainResult, task: Task, recipe: Recipe, directory: Path, *, read_test: bool
) -> dict[str, Any]:
    """Draw the curves; the result with what stands beside it: baselines and, if asked for, the test."""
    from search.learning_curve import write_png
    from search.scoring import evaluate_sealed

    curves = {f"{attempt.learning_rate:g}": attempt.curve for attempt in result.attempts}
    write_png(directory / "curve.png", curves, title=f"{task.config.kind}, seed {result.seed}")
    test = None
    if read_test and result.model is not None and result.metrics:
        metrics = evaluate_sealed(
            result.model,
            task,
            n_examples=recipe.final_examples,
            batch_size=recipe.batch_size,
            precision=recipe.precision,
        )
        test = {"score": task.score(metrics), "metrics": task.values(metrics)}
    baselines = task.baselines("validation", recipe.final_examples)
    beside = {"test": test, "baselines": [asdict(baseline) for baseline in baselines], "out": str(directory)}
    return result.as_json() | beside


def _print(figures: dict[str, Any]) -> None:
    """The figures as a table, the baselines below the model."""
    names = list(figures["metrics"])
    table = Table("", *names, "score", "", box=None)
    rows: list[tuple[str, dict[str, Any]]] = [("validation", figures)]
    if figures["test"] is not None:
        rows.append(("sealed test", figures["test"]))
    rows += [
        (baseline["name"], {"metrics": baseline["values"], "note": baseline["note"]})
        for baseline in figures["baselines"]
    ]
    for name, row in rows:
        cells = [row["metrics"].get(metric) for metric in names] + [row.get("score")]
        table.add_row(
            name, *("" if c is None else f"{c:.4f}" for c in cells), Text(row.get("note", ""), style="dim")
        )
    console = Console()
    console.print(table)
    solved = ", solved" if figures["solved"] else ""
    console.print(
        f"lr {figures['learning_rate']:g}, {figures['steps']} steps{solved}, {figures['seconds']:.0f} s: "
        f"{figures['out']}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


class _Progress:
    """A bar for each learning rate on stderr; where that is no terminal, a line for each validation."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.console = Console(stderr=True)
        columns = (TextColumn("lr {task.fields[rate]:g}"), BarColumn(), MofNCompleteColumn())
        tail = (TextColumn("{task.fields[told]}"), TimeElapsedColumn())
        self.bars = rich_progress.Progress(*columns, *tail, console=self.console)
        self.rows: dict[float, TaskID] = {}
        self.n_points = 0

    def __enter__(self) -> _Progress:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def step(self, rate: float, progress: TrainingProgress, loss: float) -> None:
        told = f"loss {loss:.3f}"
        if progress.curve:
            told += f"  validation score {progress.curve[-1].score:.3f}"
        if rate not in self.rows:
            self.rows[rate] = self.bars.add_task("", total=self.recipe.steps, rate=rate, told="")
            self.n_points = len(progress.curve)
        self.bars.update(self.rows[rate], completed=progress.step, told=told)
        if not self.console.is_terminal and len(progress.curve) > self.n_points:
            self.n_points = len(progress.curve)
            _say(f"lr {rate:g}: step {progress.step} of {self.recipe.steps}, {told}")


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C lets the step under way finish and be saved; the second does not."""
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
