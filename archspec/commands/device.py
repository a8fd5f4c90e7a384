"""archspec device: the device profiles there are, and what this machine is measured to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archspec.commands._options import JsonOption
from archspec.errors import SpecError, printable

app = typer.Typer(help="Device profiles: list, show, probe; calibrate a latency table.", no_args_is_help=True)

DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto: CUDA if there is one.")]
ClockOption = Annotated[
    str, typer.Option(help="On a CPU: wall, or cpu for the CPU time of the one thread. CUDA has its events.")
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="CPU threads; one is the steadiest.")]


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


def printable_lines(text: str) -> str:
    """Text of a file without what would steer the terminal."""
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
