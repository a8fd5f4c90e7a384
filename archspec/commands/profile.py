"""archspec profile: what a spec costs, from its closed form; fvcore and the clock on request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from archspec.commands._latency import Setting, set_threads
from archspec.commands._options import (
    BackendOption,
    ClockOption,
    StatisticOption,
    TableOption,
    refuse_unused,
)
from archspec.commands._plugins import importable
from archspec.commands._profile_several import Question, compare_or_plot
from archspec.commands._space_profile import asking, read_budget, space_profile, study_profile
from archspec.commands.check import kind_of
from archspec.errors import SpecError, did_you_mean
from archspec.source import load_source

_TIMING = ("measure", "predict")
_NEEDS = {
    "optimizer": ("trace",), "checkpointing": ("trace",), "autocast": ("trace",), "micro_batches": ("trace",),
    "backend": _TIMING, "threads": _TIMING, "clock": _TIMING,
    "table": ("predict",), "table_only": ("predict",), "statistic": ("predict",),
    "device_profile": ("predict", "plot"),
}  # fmt: skip


def profile(
    context: typer.Context,
    specs: Annotated[
        list[Path],
        typer.Argument(
            metavar="SPEC...", help="A model spec, a search space or a study.", show_default=False
        ),
    ],
    seq_len: Annotated[int | None, typer.Option(help="Tokens; default the longest the spec takes.")] = None,
    source_len: Annotated[
        int | None, typer.Option(help="What an encoder reads; default the longest that it takes.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    phase: Annotated[
        str, typer.Option(help="prefill, decode or train: what is shown and timed.")
    ] = "prefill",
    verify: Annotated[
        bool, typer.Option("--verify", help="Count every unique part with fvcore too.")
    ] = False,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Follow a forward pass and a training step: exact peaks, bytes moved."),
    ] = False,
    optimizer: Annotated[
        str, typer.Option(help="adamw, adamw_foreach or sgd; for --trace, as the three that follow.")
    ] = "adamw",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Layers run again in the backward pass.")
    ] = False,
    autocast: Annotated[bool, typer.Option("--autocast", help="float32 weights, bfloat16 products.")] = False,
    micro_batches: Annotated[int, typer.Option(min=1, help="Batches per optimizer step.")] = 1,
    measure: Annotated[bool, typer.Option("--measure", help="Time the model on the device.")] = False,
    predict: Annotated[
        bool,
        typer.Option("--predict", help="Predict the time from a latency table; what it lacks is measured."),
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto; for --measure and --predict.")] = "cpu",
    table: TableOption = None,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Measure nothing for --predict: interpolate, or roofline.")
    ] = False,
    device_profile: Annotated[
        str | None, typer.Option(help="A device profile (name or YAML file), for rooflines.")
    ] = None,
    backend: BackendOption = "eager",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default one for --predict, else torch's own.")
    ] = None,
    clock: ClockOption = "wall",
    statistic: StatisticOption = "median",
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw cost against length, of one spec or more: .png, .svg, .html."
        ),
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Of two specs: what changed, and what it costs.")
    ] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="For a space: can any member keep it? 'params<=300k', 'inference_peak<=64MiB'."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change the spec: layers[0].token_mixer.window=64.")
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A package with components of your own.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show parameters, FLOPs, memory and latency of a model; no weight is made unless asked to.

    Of a search space: the range of every cost over all its members, and budgets that none can keep (exit code
    1). A study brings its own target and budgets. With --plot, a drawing; with --diff, two specs compared.
    """
    from compiler import load_spec, profiling
    from zoo import load_zoo

    refuse_unused(context, _NEEDS)
    plugins = importable(plugin or ())
    source = load_source(specs[0], overrides=set_ or ())
    if plot is not None or diff or len(specs) > 1:
        question = Question(specs, batch_size, seq_len, dtype, phase, tuple(set_ or ()), plugins)
        only_alone = {
            "verify": verify,
            "trace": trace,
            "measure": measure,
            "predict": predict,
            "budget": bool(budget),
        }
        if unfit := [f"--{name}" for name, given in only_alone.items() if given]:
            raise SpecError(f"{', '.join(unfit)} and --plot or --diff or several specs do not go together")
        compare_or_plot(question, plot=plot, diff=diff, device_profile=device_profile, as_json=json_)
        return
    if len(specs) == 1 and (kind := kind_of(source)) != "spec":
        if verify or trace or measure or predict:
            wanted = "--verify, --trace, --measure and --predict"
            raise SpecError(f"{wanted} are for one model, and {specs[0]} is a {kind}")
        budgets = [read_budget(text) for text in budget or ()]
        if kind == "study":
            members = study_profile(source, budgets, plugins)
        else:
            asked = asking(batch_size=batch_size, seq_len=seq_len, dtype=dtype, phase=phase)
            members = space_profile(source, asked, budgets, plugins)
        if json_:
            typer.echo(json.dumps(members.as_json(), indent=2))
        else:
            Console(width=None if Console().is_terminal else 140).print(members.render())
        raise typer.Exit(0 if members.feasible else 1)
    if budget:
        raise SpecError(f"--budget is for a search space, and {specs[0]} is a spec")
    spec = specs[0]
    if threads is not None or predict:
        set_threads(threads or 1)
    model = load_spec(spec, overrides=set_ or (), plugins=plugins)
    found = profiling.profile(
        model,
        seq_len=seq_len,
        source_len=source_len,
        batch_size=batch_size,
        dtype=dtype,
        phase=phase,
        verify=verify,
        trace=_step(optimizer, checkpointing, autocast, micro_batches) if trace else None,
        measure=measure,
        device=device,
        backend=backend,
        clock=clock,
        zoo=load_zoo(plugins),
    )
    if predict:
        setting = Setting(
            device=device, phase=phase, dtype=dtype, batch_size=batch_size, seq_len=seq_len, backend=backend,
            threads=threads or 1, clock=clock, statistic=statistic, table=table, plugins=plugins,
        )  # fmt: skip
        bench = setting.bench()
        prediction = bench.predict(model, measure_missing=not table_only, device_profile=device_profile)
        found = replace(found, prediction=prediction, device=found.device or bench.table.conditions.device)
    if json_:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        from compiler.profile_view import render

        Console().print(render(found))
    if found.verify is not None and found.verify.exact is False:
        raise typer.Exit(1)


def _step(optimizer: str, checkpointing: bool, autocast: bool, micro_batches: int) -> Any:
    """The training step that ``--trace`` follows."""
    from compiler.cost.training_step import OPTIMIZERS, Step

    known = {name: name for name in OPTIMIZERS}
    if optimizer not in known:
        raise SpecError(f"unknown optimizer '{optimizer}'", hint=did_you_mean(optimizer, known))
    return Step(known[optimizer], checkpointing, autocast, micro_batches)
