"""profile --plot and profile A B --diff: one spec or more, drawn or compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from archspec.commands._space_profile import asking
from archspec.commands.check import kind_of
from archspec.errors import Problem, SpecError
from archspec.source import load_source


@dataclass(frozen=True)
class Question:
    """The specs and what is asked of each, unchecked."""

    files: Sequence[Path]
    batch_size: int
    seq_len: int | None
    dtype: str
    phase: str
    overrides: tuple[str, ...]
    plugins: tuple[str, ...]


def compare_or_plot(
    question: Question, *, plot: Path | None, diff: bool, device_profile: str | None, as_json: bool
) -> None:
    """Print the difference of two specs, or draw one or more; SpecError if it is neither or both."""
    if diff and plot is not None:
        raise SpecError("--diff and --plot do not go together")
    if diff and len(question.files) != 2:
        raise SpecError(f"--diff compares two specs, got {len(question.files)}")
    if not diff and plot is None:
        raise SpecError(f"{len(question.files)} specs: say --plot FILE to draw them, or --diff for two")
    kinds = {file: kind_of(load_source(file, overrides=question.overrides)) for file in question.files}
    others = [
        Problem(f"this is a {kind}, not a spec", file=str(f)) for f, kind in kinds.items() if kind != "spec"
    ]
    if others:
        raise SpecError(problems=others)
    if diff:
        _compare(question, as_json=as_json)
    else:
        assert plot is not None
        _draw(question, plot, device_profile, as_json=as_json)


def _compare(question: Question, *, as_json: bool) -> None:
    import compiler
    from compiler.profile_diff import diff
    from zoo import load_zoo

    specs = [
        compiler.load_spec(file, overrides=question.overrides, plugins=question.plugins)
        for file in question.files
    ]
    first, second = (
        compiler.profile(
            spec, seq_len=question.seq_len, batch_size=question.batch_size, dtype=question.dtype,
            phase=question.phase, zoo=load_zoo(question.plugins),
        )
        for spec in specs
    )  # fmt: skip
    found = diff(specs[0], specs[1], (first, second))
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        Console(width=None if Console().is_terminal else 140).print(found.render())


def _draw(question: Question, file: Path, device_profile: str | None, *, as_json: bool) -> None:
    import compiler
    from compiler.device.device_profile import find_profile
    from compiler.profile_chart import checked_file, curve, write_chart
    from zoo import load_zoo

    checked_file(file)
    if question.seq_len is not None:
        raise SpecError("--plot draws every length, so it takes no --seq-len")
    asked = asking(batch_size=question.batch_size, seq_len=None, dtype=question.dtype, phase=question.phase)
    device = None if device_profile is None else find_profile(device_profile)
    curves = [
        curve(
            compiler.load_spec(path, overrides=question.overrides, plugins=question.plugins),
            batch_size=asked.batch_size, dtype=asked.dtype, phase=asked.phase,
            zoo=load_zoo(question.plugins), device=device,
        )
        for path in question.files
    ]  # fmt: skip
    write_chart(file, curves, device=device)
    if as_json:
        document = {"plot": str(file), "curves": [found.as_json() for found in curves]}
        typer.echo(json.dumps(document, indent=2))
    else:
        typer.echo(f"written: {file}")
