"""archspec device: the device profiles there are, and what this machine is measured to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archspec.commands._options import (
    BackendOption,
    ClockOption,
    DeviceOption,
    JsonOption,
    PluginOption,
    SetOption,
    StatisticOption,
    TableOption,
    ThreadsOption,
)
from archspec.commands._plugins import importable
from archspec.errors import SpecError, printable

app = typer.Typer(help="Device profiles: list, show, probe; calibrate a latency table.", no_args_is_help=True)


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List the profiles that are shipped."""
    from compiler.device.device_profile import shipped

    profiles = list(shipped().values())
    if json_:
        typer.echo(json.dumps([profile.model_dump(mode="json") for profile in profiles], indent=2))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("profile", "device", "bf16 peak", "fp32 peak", "GB/s", "GB", "measured"):
        table.add_column(column, justify="left" if column in ("profile", "device", "measured") else "right")
    for profile in profiles:
        measured = profile.measured
        table.add_row(
            profile.device,
            Text(profile.name),
            *(_figure(profile.peak_tflops.get(dtype)) for dtype in ("bfloat16", "float32")),
            _figure(profile.bandwidth_gb_s),
            _figure(profile.memory_gb),
            Text("no" if measured is None else f"{measured.date}, {measured.by}"),
        )
    Console(width=None if Console().is_terminal else 140).print(table)
    Console().print(Text("Peaks are dense TFLOP/s by data sheet; a dash is what nobody vouches for.", "dim"))


@app.command("show")
def show(
    profile: Annotated[str, typer.Argument(help="A shipped profile's name, or a YAML file.")],
    json_: JsonOption = False,
) -> None:
    """Show one profile with its sources."""
    from compiler.device.device_profile import find_profile
    from compiler.device.probe import profile_text

    found = find_profile(profile)
    if json_:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        typer.echo(printable_lines(profile_text(found)), nl=False)


@app.command("probe")
def probe(
    device: DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the profile here (YAML).")] = None,
    threads: ThreadsOption = 1,
    clock: ClockOption = "wall",
    seconds: Annotated[float, typer.Option(min=1.0, help="About how long to measure.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Measure matmul rate by dtype, copy bandwidth and launch overhead; print or write a device profile."""
    import torch

    from compiler.device import probe as probing

    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise SpecError(f"a device profile is a YAML file, got --out {out}")
    torch.set_num_threads(threads)
    console = Console(stderr=True)
    found = probing.probe(
        device, clock=clock, seconds=seconds, say=lambda text: console.print(Text(text, "dim"))
    )
    profile = found.profile()
    if out is not None:
        out.write_text(probing.profile_text(profile))
        profile = profile.model_copy()
    if json_:
        document: dict[str, Any] = {**found.as_json(), "profile": profile.model_dump(mode="json")}
        typer.echo(json.dumps(document, indent=2))
    elif out is None:
        typer.echo(printable_lines(probing.profile_text(profile)), nl=False)
    else:
        typer.echo(f"written: {out}")


@app.command("calibrate")
def calibrate(
    space: Annotated[Path, typer.Argument(help="A search space, or a spec.", show_default=False)],
    table: TableOption = None,
    device: DeviceOption = "auto",
    phase: Annotated[str, typer.Option(help="prefill, decode or train.")] = "prefill",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    seq_len: Annotated[
        int | None, typer.Option(help="Tokens; by default as many as each model takes.")
    ] = None,
    backend: BackendOption = "eager",
    threads: ThreadsOption = 1,
    clock: ClockOption = "wall",
    statistic: StatisticOption = "median",
    models: Annotated[int, typer.Option(min=0, help="Whole models to scale to, for each length.")] = 6,
    rounds: Annotated[int, typer.Option(min=3, help="Runs of everything, at least.")] = 30,
    seconds: Annotated[float, typer.Option(min=0.0, help="At most, for one session.")] = 600.0,
    set_: SetOption = None,
    plugin: PluginOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure the blocks of a space, and a few whole models, into a latency table that predictions use.

    A block's entry is (T[4 copies] - T[1]) / 3. What the table holds already for this device, shape, dtype,
    phase, backend, versions and code is not measured again.
    """
    from archspec.commands import _latency
    from archspec.source import load_source
    from archspec.space import Space

    plugins = importable(plugin or ())
    bench = _latency.Setting(
        device=device, phase=phase, dtype=dtype, batch_size=batch_size, seq_len=seq_len, backend=backend,
        threads=threads, clock=clock, statistic=statistic, table=table, plugins=plugins,
    ).bench()  # fmt: skip
    source = load_source(space, overrides=set_ or ())
    if "study" in source.root.entries:
        raise SpecError("this is a study; calibrate its space", file=str(space))
    found = bench.calibrate(Space(source), n_models=models, rounds=rounds, seconds=seconds)
    if json_:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        Console(width=None if Console().is_terminal else 140).print(found.render())


def printable_lines(text: str) -> str:
    """Text of a file without what would steer the terminal."""
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
