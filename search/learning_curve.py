"""A learning curve as a number, a table and a picture."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from search.checkpoint import replacing, write_text
from search.fit import Point


def area_under_curve(curve: Sequence[Point], steps: int) -> float:
    """The mean score over ``steps``: straight lines from (0, 0), the last score held to the end.

    It tells a model that solves a task early from one that does so late, where final scores are equal.
    """
    corners = [(0, 0.0), *((point.step, point.score) for point in curve if point.step <= steps)]
    corners.append((steps, corners[-1][1]))
    return sum((x - x0) * (y + y0) / 2 for (x0, y0), (x, y) in itertools.pairwise(corners)) / steps


def write_csv(path: Path, curve: Sequence[Point]) -> None:
    """One row per point."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in curve)
    write_text(path, text.getvalue())


def write_png(path: Path, curves: Mapping[str, Sequence[Point]], *, title: str) -> None:
    """The validation score over the steps, one line per curve."""
    import altair
    import vl_convert

    rows = [
        {"curve": name, "step": point.step, "score": point.score}
        for name, points in curves.items()
        for point in points
    ]
    chart = (
        altair.Chart(altair.Data(values=rows), title=title, width=480, height=280)
        .mark_line(point=True)
        .encode(
            x=altair.X("step:Q", title="optimizer steps"),
            y=altair.Y("score:Q", title="validation score", scale=altair.Scale(domain=[0, 1])),
            color=altair.Color("curve:N", title="learning rate"),
        )
    )
    with replacing(path) as temporary:
        temporary.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2))
