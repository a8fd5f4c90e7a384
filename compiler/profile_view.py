"""A profile for people: tables in the terminal, HTML in a notebook; equal layers in a row are shown once."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from archspec.quantities import show
from compiler.profiling import Profile, Row

if TYPE_CHECKING:
    from compiler.cost.verification import Check, Verification
    from compiler.device.prediction import Prediction

_LAYER = re.compile(r"(encoder\.|)layers\.(\d+)\.(.*)")


@dataclass(frozen=True)
class _Line:
    """Parts that are alike: one of them, what they are called inside their layer, and the layers' numbers."""

    row: Row
    part: str
    layers: tuple[int, ...]  # empty outside the layers

    @property
    def where(self) -> str:
        if len(self.layers) < 2:
            return "".join(map(str, self.layers))
        first, last = self.layers[0], self.layers[-1]
        return f"{first}-{last}" if last - first + 1 == len(self.layers) else f"{first}..{last}"


def render(profile: Profile) -> RenderableType:
    """The whole model, its parts, and what ``verify`` found."""
    title = _title(profile)
    parts: list[RenderableType] = [Text(title, style="bold"), _summary(profile), _parts(profile)]
    if profile.verify is not None:
        parts += [_verification(profile.verify)]
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
    title = escape(_title(profile))
    return (
        f"<div><b>{title}</b><table>{summary}</table>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _title(profile: Profile) -> str:
    source = "" if profile.source_len is None else f" after a source of {profile.source_len}"
    return f"{profile.name}: {profile.seq_len} positions{source}, batch {profile.batch_size}, {profile.dtype}"


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
    yield "FLOPs recomputed", f"{show('flops', profile.flops_recomputed)} at most, with checkpointing"
    yield "weights", show("weights", memory.weights)
    yield "peak, training", f"{show('train_peak', memory.train_peak)} (AdamW; an estimate)"
    yield "saved for backward", show("activations", memory.activations)
    yield "peak, inference", f"{show('inference_peak', memory.inference_peak)} (an estimate)"
    fused, unfused = (show("weights", moved) for moved in (profile.bytes_fused, profile.bytes_unfused))
    yield "bytes moved, forward", f"{fused} fused, {unfused} not"
    if profile.traced is not None:
        yield from profile.traced.facts()
    if profile.flops["decode"] is not None:
        yield "cache per token", show("kv_bytes_per_token", memory.kv_bytes_per_token)
        yield "state", show("state_bytes", memory.state_bytes)
    latency = profile.latency
    if profile.prediction is not None:
        yield f"latency, {profile.phase}", _predicted(profile.prediction)
    if latency is None:
        if profile.prediction is None:
            yield "latency", "not measured (--measure, --predict)"
    else:
        spread = f"{show('latency_ms', latency.low_ms)} to {show('latency_ms', latency.high_ms)}"
        yield (
            f"latency, {profile.phase}",
            f"{show('latency_ms', latency.median_ms)} (quartiles {spread}, n={latency.n}; {profile.device})",
        )


def _predicted(found: Prediction) -> str:
    """The predicted time with its interval, and how many parts are measured."""
    sources = Counter(part.source for part in found.parts)
    told = ", ".join(f"{n} {source}" for source, n in sources.items())
    high = show("latency_ms", found.high_ms) if math.isfinite(found.high_ms) else "?"
    models = f"scaled to {found.fit.n_models} models" if found.fit.n_models else "not calibrated"
    spread = f"90 %: {show('latency_ms', found.low_ms)} to {high}"
    return (
        f"{show('latency_ms', found.ms)} predicted ({spread}; parts: {told}; {models}; "
        f"{found.backend}, {found.clock} clock)"
    )


def _summary(profile: Profile) -> Table:
    table = Table(show_header=False, box=None)
    for name, value in _facts(profile):
        table.add_row(Text(name, style="bold"), Text(value))
    return table


_HEADINGS = ("layers", "part", "kind", "n", "params", "FLOPs", "needed", "share", "saved")
_N_TEXTS = 3  # of these; the others are numbers


def _parts(profile: Profile) -> Table:
    title = f"Parts; figures are those of one, the share is that of all n (phase {profile.phase})"
    table = _table(title, _HEADINGS, n_texts=_N_TEXTS)
    for line in _lines(profile):
        table.add_row(*(Text(cell) for cell in _cells(line, profile)))
    return table


def _table(title: str, headings: tuple[str, ...], *, n_texts: int) -> Table:
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings):
        justify: JustifyMethod = "left" if i < n_texts else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "part", overflow="fold")
    return table


def _cells(line: _Line, profile: Profile) -> tuple[str, ...]:
    row, n = line.row, max(1, len(line.layers))
    flops, needed = row.flops[profile.phase] or 0, row.flops_needed[profile.phase] or 0
    return (
        line.where,
        line.part,
        row.kind,
        f"{n}",
        show("params", row.cost.params),
        show("flops", flops),
        show("flops_needed", needed),
        f"{n * flops / max(1, profile.flops[profile.phase] or 0):.1%}",
        show("activations", row.cost.activation_bytes),
    )


def _lines(profile: Profile) -> list[_Line]:
    """Every kind of part in the order of its first appearance; additions are left out."""
    found: dict[tuple[object, ...], tuple[Row, str, list[int]]] = {}
    for row in profile.rows:
        if row.kind == "add":
            continue
        match = _LAYER.fullmatch(row.path)
        part = match[1] + match[3] if match else row.path
        key = (part, row.kind, row.cost, *row.flops.values(), *row.flops_needed.values())
        layers = found.setdefault(key, (row, part, []))[2]
        if match:
            layers.append(int(match[2]))
    return [_Line(row, part, tuple(layers)) for row, part, layers in found.values()]


def _verification(found: Verification) -> Group:
    """One line for each part, its figures those of the longest forward pass; what differs is told below."""
    verdict = {True: "exact", False: "they differ", None: "not everything was compared"}[found.exact]
    title = f"Multiply-adds for {found.batch_size} sequences, ours and the witnesses': {verdict}"
    headings = ("part", "lengths", "ours", "fvcore+", "fvcore", "traced", "torch")
    table = _table(title, headings, n_texts=2)
    step = _table("The same for a training step", ("part", "ours", "traced", "torch"), n_texts=1)
    notes = ["fvcore+: with our handles; traced: our trace; torch: FlopCounterMode on meta tensors"]
    for _, group in groupby(found.checks, key=lambda check: (check.path, check.kind)):
        checks = list(group)
        shown = next((c for c in checks if not c.exact), max(checks, key=lambda c: (c.phase, c.length)))
        figures = (shown.fvcore_macs, shown.stock_macs, shown.traced_macs, shown.counter_macs)
        table.add_row(
            Text(_name(shown)),
            _lengths(checks),
            f"{shown.macs:,}",
            *(_compared(figure, shown.macs) for figure in figures),
            style=None if shown.exact else "red",
        )
        if (macs := shown.train_macs) is not None:
            witnesses = (shown.traced_train_macs, shown.counter_train_macs)
            compared = (_compared(figure, macs) for figure in witnesses)
            step.add_row(Text(_name(shown)), f"{macs:,}", *compared, style=None if shown.exact else "red")
        notes += _notes(shown)
    notes += [f"not compared: {reason}" for reason in found.skipped]
    return Group(table, step, *(Text(note) for note in notes))


def _lengths(checks: list[Check]) -> str:
    """From the shortest to the longest, and whether decoding was compared too."""
    lengths = sorted({check.length for check in checks if check.phase == "prefill"})
    span = f"{lengths[0]}-{lengths[-1]}" if len(lengths) > 1 else "".join(map(str, lengths))
    return ", ".join(filter(None, [span, "step" if len(checks) > len(lengths) else ""]))


def _name(check: Check) -> str:
    return check.path.removeprefix("layers.") or "the whole model"


def _compared(figure: int | None, ours: int) -> str:
    return "fails" if figure is None else "same" if figure == ours else f"{figure:,}"


def _notes(check: Check) -> Iterator[str]:
    """What a reader must know of one comparison."""
    name = _name(check)
    if check.unknown_ops:
        yield f"{name}: in no table: {', '.join(check.unknown_ops)}"
    if check.params != check.fvcore_params:
        yield f"{name}: {check.params:,} params in closed form, {check.fvcore_params:,} by fvcore"
    if check.differences:
        yield f"{name}: fvcore alone, against ours: {', '.join(check.differences)}"
    if check.counter_differences:
        run = "forward" if check.train_macs is None else "in training"
        yield f"{name}: FlopCounterMode, against ours {run}: {', '.join(check.counter_differences)}"
