"""The memory of a pass over a whole model, from a trace in which every kind of layer ran once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.cost.condensed import unit_of
from compiler.cost.places import PlacedTracer


@dataclass(frozen=True)
class Run:
    """Bytes over a pass: the most, and those alive at its end, beyond weights, buffers and inputs."""

    peak: int
    end: int


def run_of(tracer: PlacedTracer, phase: str, order: Sequence[str], *, start: int, late: int = 0) -> Run:
    """The memory of a whole model's pass, from that of one with a layer of every kind.

    ``order`` says which layer of the traced model each one is like, and is empty if all were traced;
    ``start`` is what lives at first, ``late`` what layers that were left out would give up at the end.
    """
    first, *others = stretches(tracer, phase, merged=not order)
    layers = {s.place: s for s in others if s.place}
    outside = [s for s in others if not s.place]
    assert not first.place, "a pass begins and ends outside the layers"
    assert len(outside) == bool(others), "layers follow one another"
    assert len(layers) + len(outside) == len(others), "a layer is one stretch"
    assert set(order) == set(layers), f"{set(order) ^ set(layers)} did not run"
    live = peak = start
    for stretch in (first, *(layers[name] for name in order), *outside):
        peak = max(peak, live + stretch.rise)
        live += stretch.left
    return Run(peak, live - late)


@dataclass(frozen=True)
class Stretch:
    """All that runs in a layer, or between layers: the most bytes beyond those at its start; those left."""

    place: str
    rise: int
    left: int


def stretches(tracer: PlacedTracer, phase: str, *, merged: bool) -> list[Stretch]:
    """The stretches of one phase in their order, all in one if ``merged``.

    The span after it says what is left at the end.
    """
    at = [i for i, span in enumerate(tracer.spans) if span.phase == phase]
    spans = tracer.spans[at[0] : at[-1] + 1]
    ends = [span.entry for span in tracer.spans[at[0] + 1 : at[-1] + 2]]
    found: list[Stretch] = []
    entry = 0
    for span, end in zip(spans, ends, strict=True):
        place = "" if merged else unit_of(span.place)
        if not found or found[-1].place != place:
            entry = span.entry
            found.append(Stretch(place, span.peak - entry, end - entry))
        else:
            rise = max(found[-1].rise, span.peak - entry)
            found[-1] = Stretch(place, rise, end - entry)
    return found
