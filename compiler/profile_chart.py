"""Specs -> their cost against sequence length on log axes: FLOPs by kind, memory, and the device's roofline.

One column for each spec, with common axes. FLOPs are stacked: each kind of component is a band from what is
below it to what it adds, since on a log axis only sums can be read. Files are PNG, SVG, or an HTML page that
holds the same SVG and runs no script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from archspec import Dtype, ModelSpec, Phase, SpecError
from archspec.errors import printable
from compiler.build import build_graph
from compiler.cost.closed_form import CostPlan
from compiler.device.device_profile import Basis, DeviceProfile
from compiler.device.roofline import Roofline, roofline
from compiler.profiling import Profile, closed_profile
from zoo import Zoo

SUFFIXES = (".png", ".svg", ".html")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#5e4fa2", "#777777")
_FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
_LEAST = 16  # positions where a curve begins
_WIDTH, _HEIGHT = 280, 200


@dataclass(frozen=True)
class Point:
    """One spec at one length."""

    profile: Profile
    cache_bytes: int  # of all sequences of the batch, once they are read
    roofline: Roofline | None

    def flops_by_kind(self) -> dict[str, int]:
        """FLOPs of the phase, by kind of component, where there are any."""
        found: Counter[str] = Counter()
        for row in self.profile.rows:
            found[row.kind] += row.flops[self.profile.phase] or 0
        return {kind: flops for kind, flops in found.items() if flops}

    def as_json(self) -> dict[str, Any]:
        memory = self.profile.memory
        return {
            "seq_len": self.profile.seq_len,
            "flops": self.flops_by_kind(),
            "weights": memory.weights,
            "train_peak" if self.profile.phase == "train" else "inference_peak": _peak(self),
            "cache_bytes": self.cache_bytes,
            "roofline_ms": None
            if self.roofline is None
            else {
                "bound": self.roofline.bound_ms,
                "compute": self.roofline.compute_ms,
                "memory": self.roofline.memory_ms,
            },
        }


@dataclass(frozen=True)
class Curve:
    """One spec at all lengths that it takes, from the shortest."""

    name: str
    points: tuple[Point, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "points": [point.as_json() for point in self.points]}


def curve(
    spec: ModelSpec,
    *,
    batch_size: int,
    dtype: Dtype,
    phase: Phase,
    zoo: Zoo,
    device: DeviceProfile | None = None,
) -> Curve:
    """At powers of two and at the greatest length; lengths that the model does not take are left out."""
    graph = build_graph(spec, zoo=zoo)
    greatest = spec.input.seq_len
    lengths = sorted({2**k for k in range(40) if _LEAST <= 2**k < greatest} | {greatest})
    basis: Basis = "peak" if device is not None and device.peak_tflops else "measured"
    points = []
    for length in lengths:
        try:
            found = closed_profile(graph, seq_len=length, batch_size=batch_size, dtype=dtype, phase=phase)
        except SpecError:
            if length == greatest:
                raise
            continue
        costs = CostPlan(graph, length).costs(
            batch_size=batch_size,
            dtype=dtype,
            phase=phase,
            context_len=length - 1 if phase == "decode" else 0,
        )
        caches = batch_size * (found.memory.kv_bytes_per_token * length + found.memory.state_bytes)
        bound = (
            None
            if device is None
            else roofline(costs.values(), device, dtype=dtype, phase=phase, basis=basis)
        )
        points.append(Point(found, caches, bound))
    return Curve(spec.name, tuple(points))


def checked_file(file: Path) -> Path:
    """A path that a chart can be written to."""
    if file.suffix not in SUFFIXES:
        raise SpecError(f"a chart is written as {', '.join(SUFFIXES)}, got {file}")
    if not file.parent.is_dir():
        raise SpecError(f"no such folder: {file.parent}")
    return file


def write_chart(file: Path, curves: Sequence[Curve], *, device: DeviceProfile | None = None) -> None:
    """Draw ``curves`` into ``file``; its suffix says how."""
    import vl_convert

    drawing = chart(curves, device=device).to_dict()
    if file.suffix == ".png":
        file.write_bytes(vl_convert.vegalite_to_png(drawing, scale=2))
        return
    svg = str(vl_convert.vegalite_to_svg(drawing))
    title = ", ".join(escape(printable(curve.name)) for curve in curves)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{title}</title></head><body>{svg}</body></html>\n"
    )
    file.write_text(svg if file.suffix == ".svg" else page)


def chart(curves: Sequence[Curve], *, device: DeviceProfile | None = None) -> Any:
    """A Vega-Lite chart: a column for each curve, a row for each cost."""
    import altair as alt

    kinds = list(dict.fromkeys(k for c in curves for p in c.points for k in p.flops_by_kind()))
    colours = [_COLOURS[min(i, len(_COLOURS) - 1)] for i in range(len(kinds))]
    panels = [
        [_flops(curve, kinds, colours, _domain(curves, _flops_ends)) for curve in curves],
        [_memory(curve, _domain(curves, _memory_ends)) for curve in curves],
    ]
    if device is not None:
        panels.append([_time(curve, device, _domain(curves, _time_ends)) for curve in curves])
    rows = [alt.hconcat(*row).resolve_scale(color="shared") for row in panels]
    first = curves[0].points[-1].profile
    title = f"phase {first.phase}, batch {first.batch_size}, {first.dtype}"
    drawing = alt.vconcat(*rows, title=alt.Title(title, anchor="start", fontSize=13))
    return (
        drawing.resolve_scale(color="independent")
        .configure(font=_FONT, background="white")
        .configure_axis(labelFontSize=10, titleFontSize=11, gridColor="#ececec")
    )


def _flops(curve: Curve, kinds: list[str], colours: list[str], domain: list[float]) -> Any:
    import altair as alt

    bands = []
    for point in curve.points:
        below, by_kind = 0, point.flops_by_kind()
        for kind in kinds:
            above = below + by_kind.get(kind, 0)
            if above > below:
                bands.append(
                    {"L": point.profile.seq_len, "kind": kind, "low": max(below, domain[0]), "high": above}
                )
            below = above
    colour = alt.Color("kind:N", title="kind", sort=kinds, scale=alt.Scale(domain=kinds, range=colours))
    place = {"x": _length_axis(), "y": _axis("low", "FLOPs", domain), "y2": "high:Q", "color": colour}
    base = alt.Chart(alt.Data(values=bands))
    layers = [base.mark_area(opacity=0.85).encode(**place)]
    if len(curve.points) == 1:  # an area needs two lengths
        layers = [base.mark_bar(size=14, opacity=0.85).encode(**place)]
    return alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=_title(curve))


def _memory(curve: Curve, domain: list[float]) -> Any:
    rows = []
    for point in curve.points:
        peak = "peak, training" if point.profile.phase == "train" else "peak, inference"
        figures = {peak: _peak(point), "weights": point.profile.memory.weights, "caches": point.cache_bytes}
        rows += [
            {"L": point.profile.seq_len, "what": what, "y": value} for what, value in figures.items() if value
        ]
    return _lines(rows, "memory", "bytes", domain)


def _time(curve: Curve, device: DeviceProfile, domain: list[float]) -> Any:
    rows = []
    for point in curve.points:
        assert point.roofline is not None
        figures = {
            "roofline": point.roofline.bound_ms,
            "compute": point.roofline.compute_ms,
            "memory traffic": point.roofline.memory_ms,
        }
        rows += [
            {"L": point.profile.seq_len, "what": what, "y": value} for what, value in figures.items() if value
        ]
    return _lines(rows, printable(device.device), "ms, at least", domain)


def _lines(rows: list[dict[str, Any]], legend: str, title: str, domain: list[float]) -> Any:
    import altair as alt

    whats = list(dict.fromkeys(row["what"] for row in rows))
    colour = alt.Color(
        "what:N", title=legend, sort=whats, scale=alt.Scale(domain=whats, range=list(_COLOURS))
    )
    lines = alt.Chart(alt.Data(values=rows)).mark_line(point=alt.OverlayMarkDef(size=18))
    encoded = lines.encode(x=_length_axis(), y=_axis("y", title, domain), color=colour)
    return encoded.properties(width=_WIDTH, height=_HEIGHT * 2 // 3)


def _length_axis() -> Any:
    import altair as alt

    axis = alt.Axis(format=",d", labelOverlap=True)
    return alt.X("L:Q", title="sequence length", scale=alt.Scale(type="log", base=2, nice=False), axis=axis)


def _axis(field: str, title: str, domain: list[float]) -> Any:
    import altair as alt

    scale = alt.Scale(type="log", domain=domain, nice=False, clamp=True)
    style = ",~g" if title.startswith("ms") else "~s"
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format=style, labelOverlap=True))


def _title(curve: Curve) -> Any:
    import altair as alt

    return alt.Title(printable(curve.name), anchor="start", fontSize=12, limit=_WIDTH)


def _domain(curves: Sequence[Curve], ends: Any) -> list[float]:
    """Common ends of an axis: a little below the least figure, a little above the greatest."""
    values = [value for curve in curves for point in curve.points for value in ends(point) if value > 0]
    if not values:
        return [1.0, 10.0]
    return [min(values) / 2, max(values) * 1.5]


def _flops_ends(point: Point) -> list[float]:
    by_kind = point.flops_by_kind().values()
    return [float(sum(by_kind)), float(max(by_kind, default=0)) / 20]


def _memory_ends(point: Point) -> list[float]:
    return [float(_peak(point)), float(point.profile.memory.weights), float(point.cache_bytes)]


def _time_ends(point: Point) -> list[float]:
    assert point.roofline is not None
    return [point.roofline.bound_ms, point.roofline.compute_ms, point.roofline.memory_ms]


def _peak(point: Point) -> int:
    memory = point.profile.memory
    return memory.train_peak if point.profile.phase == "train" else memory.inference_peak
