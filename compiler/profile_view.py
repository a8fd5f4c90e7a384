"""A profile for people: tables in the terminal, HTML in a notebook; equal layers in a row are shown once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from archspec.quantities import show
from compiler.profiling import Profile, Row

if TYPE_CHECKING:
    from compiler.cost.verify import Verification

_LAYER = re.compile(r"layers\.(\d+)\.(.*)")


@dataclass(frozen=True)
class _Line:
    """One line of the table: a row, and how many times it stands there in a row."""

    path: str
    row: Row
    n: int


def render(profile: Profile) -> RenderableType:
    """The whole model, its parts, and what ``--verify`` found."""
    parts: list[RenderableType] = [_summary(profile), _parts(profile)]
    if profile.verification is not None:
        parts += [_verification(profile.verification)]
    return Group(*parts)


def to_html(profile: Profile) -> str:
    """Two plain tables."""
    summary = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in _facts(profile)
    )
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(line, profile)) + "</tr>"
        for line in _lines(profile)
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in _HEADINGS)
    title = escape(f"{profile.name}, {profile.seq_len} tokens x {profile.batch_size}, {profile.dtype}")
    return (
        f"<div><b>{title}</b><table>{summary}</table>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _facts(profile: Profile) -> Iterator[tuple[str, str]]:
    memory = profile.memory
    yield "params", f"{profile.params:,}"
    yield "of these embedding", f"{profile.params_embedding:,}"
    if profile.params_active != profile.params:
        yield "active per token", f"{profile.params_active:,}"
    for phase, flops in profile.flops.items():
        if flops is None:
            yield f"FLOPs {phase}", "it does not decode"
        else:
            needed = profile.flops_needed[phase] or 0
            yield f"FLOPs {phase}", f"{show('flops', flops)} (needed {show('flops', needed)})"
    yield "weights", show("weights", memory.weights)
    yield "peak, training", f"{show('train_peak', memory.train_peak)} (AdamW)"
    yield "saved for backward", show("activations", memory.activations)
    yield "peak, inference", show("inference_peak", memory.inference_peak)
    if profile.flops["decode"] is not None:
        yield "cache per token", show("kv_bytes_per_token", memory.kv_bytes_per_token)
        yield "state", show("state_bytes", memory.state_bytes)
    latency = profile.latency
    if latency is None:
        yield "latency", "not measured (--measure)"
    else:
        spread = f"{show('latency_ms', latency.low_ms)} to {show('latency_ms', latency.high_ms)}"
        yield (
            f"latency, {profile.phase}",
            f"{show('latency_ms', latency.median_ms)} (quartiles {spread}, n={latency.n}; {profile.device})",
        )


def _summary(profile: Profile) -> Table:
    title = f"{profile.name}: {profile.seq_len} tokens, batch {profile.batch_size}, {profile.dtype}"
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    for name, value in _facts(profile):
        table.add_row(Text(name, style="bold"), Text(value))
    return table


_HEADINGS = ("part", "kind", "params", "FLOPs", "needed", "share", "saved")


def _parts(profile: Profile) -> Table:
    table = Table(title=f"Parts, phase {profile.phase}, each", title_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("part", "kind") else "right", no_wrap=True)
    for line in _lines(profile):
        table.add_row(*(Text(cell) for cell in _cells(line, profile)))
    return table


def _cells(line: _Line, profile: Profile) -> tuple[str, ...]:
    """Figures of one such part; the share is that of all of them."""
    row = line.row
    flops, needed = row.flops[profile.phase] or 0, row.flops_needed[profile.phase] or 0
    share = line.n * flops / max(1, profile.flops[profile.phase] or 0)
    return (
        line.path + (f" ×{line.n}" if line.n > 1 else ""),
        row.kind,
        show("params", row.cost.params),
        show("flops", flops),
        show("flops_needed", needed),
        f"{share:.1%}",
        show("activations", row.cost.activation_bytes),
    )


def _lines(profile: Profile) -> Iterator[_Line]:
    """The rows without additions; a run of equal layers becomes one, its numbers a range."""
    layers: list[tuple[int | None, list[Row]]] = []
    for row in profile.rows:
        if row.kind == "add":
            continue
        match = _LAYER.match(row.path)
        number = int(match[1]) if match else None
        if number is None or not layers or layers[-1][0] != number:
            layers.append((number, []))
        layers[-1][1].append(row)
    start = 0
    while start < len(layers):
        number, rows = layers[start]
        end = start + 1
        while number is not None and end < len(layers) and _alike(rows, layers[end][1]):
            end += 1
        for row in rows:
            match = _LAYER.match(row.path)
            span = f"{number}-{layers[end - 1][0]}" if end - start > 1 else f"{number}"
            yield _Line(f"layers.{span}.{match[2]}" if match else row.path, row, end - start)
        start = end


def _alike(rows: list[Row], others: list[Row]) -> bool:
    def content(row: Row) -> tuple[object, ...]:
        match = _LAYER.match(row.path)
        return (match[2] if match else row.path, row.kind, row.cost, row.flops, row.flops_needed)

    return [content(row) for row in rows] == [content(row) for row in others]


def _verification(found: Verification) -> Table:
    verdict = {True: "exact", False: "they differ", None: "not everything was compared"}[found.exact]
    table = Table(title=f"Multiply-adds by fvcore: {verdict}", title_justify="left")
    for heading in ("part", "kind", "phase", "length", "ours", "fvcore + handles", "fvcore", "params", ""):
        is_text = heading in ("part", "kind", "phase", "")
        table.add_column(heading, justify="left" if is_text else "right")
    for check in found.checks:
        notes = [f"unknown: {', '.join(check.unknown_ops)}"] if check.unknown_ops else []
        if check.macs != check.fvcore_macs or check.params != check.fvcore_params:
            notes += [f"differs: {check.params:,} and {check.fvcore_params:,} params"]
        table.add_row(
            Text(check.path or "the model"),
            Text(check.kind),
            check.phase,
            f"{check.length}",
            f"{check.macs:,}",
            f"{check.fvcore_macs:,}",
            "fails" if check.stock_macs is None else f"{check.stock_macs:,}",
            show("params", check.params),
            Text("; ".join([*notes, *check.differences])),
            style=None if check.exact else "red",
        )
    if found.skipped:
        table.caption = Text("not compared: " + "; ".join(found.skipped))
    return table
