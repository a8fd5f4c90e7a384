"""SearchResult -> Vega-Lite charts, as SVG for the page and as PNG beside it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import altair as alt
import vl_convert

from archspec.quantities import find_quantity, show
from search.confidence import interval
from search.front import Row, SearchResult
from search.report.palette import GREY, token_mixers

_STAR = (
    "M0,-1L0.23,-0.31L0.95,-0.31L0.36,0.12L0.59,0.81L0,0.38L-0.59,0.81L-0.36,0.12L-0.95,-0.31L-0.23,-0.31Z"
)
MOST_POINTS = 600  # of the scatter
_FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"


def svg(chart: Any) -> str:
    """The chart as one ``<svg>`` element; its texts are escaped."""
    return str(vl_convert.vegalite_to_svg(chart.to_dict()))


def png(chart: Any) -> bytes:
    """The chart as a PNG at twice the size."""
    return bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2))


def axes(result: SearchResult) -> tuple[str, str]:
    """Quantities of the scatter: y is the first objective, x the second, or the parameters if it is alone."""
    quantities = [objective.quantity for objective in result.objectives]
    return (quantities[1] if len(quantities) > 1 else "params"), quantities[0]


def value_of(row: Row, quantity: str) -> float | None:
    """A row's objective or closed-form cost of that name."""
    return row.objectives.get(quantity, row.costs.get(quantity))


def front_chart(result: SearchResult) -> Any:
    """All that were trained: the front a step line, budgets dashed, baselines labelled stars."""
    x, y = axes(result)
    drawn = [row for row in result.trained if None not in (value_of(row, x), value_of(row, y))]
    points = [_point(row, x, y, result) for row in most_telling(drawn, MOST_POINTS)]
    front = [point for point in points if point["front"]]
    baselines = [point for point in points if point["baseline"]]
    members = [point for point in front if not point["baseline"]]
    others = [point for point in points if not (point["front"] or point["baseline"] or point["random"])]
    at_random = [point for point in points if point["random"] and not point["front"]]
    place = {
        "x": alt.X("x:Q", title=_title(x), scale=_x_scale(x, points)),
        "y": alt.Y("y:Q", title=_title(y), scale=alt.Scale(zero=False, nice=True)),
    }
    faint = alt.condition("datum.feasible", alt.value(0.8), alt.value(0.3))
    layers = [
        *_budget_lines(result, x, y, points),
        _errors(points, x, y),
        _marks(others, "circle", 45).encode(**place, color=alt.value(GREY), opacity=faint),
        _marks(at_random, "diamond", 45).encode(**place, color=alt.value(GREY), opacity=faint),
        alt.Chart(values(front))
        .mark_line(interpolate=_step(result, x), color="#222222", strokeWidth=1.5)
        .encode(**place, order="x:Q"),
        _marks(members, "circle", 110).encode(**place, color=_main_mixer(members, token_mixers(result))),
        _marks(baselines, _STAR, 160).encode(**place, color=alt.value("#111111")),
        alt.Chart(values(baselines))
        .mark_text(align="left", dx=9, dy=-7, fontSize=11, font=_FONT)
        .encode(**place, text="baseline:N"),
    ]
    chart = alt.layer(*layers).properties(
        width=640, height=380, title=alt.Title(_headline(result), anchor="start", fontSize=14, limit=640)
    )
    return styled(chart)


def depth_chart(result: SearchResult) -> Any:
    """Share of each token mixer by depth, on the front and among all that were trained."""
    colours = token_mixers(result)
    data = [
        {"set": label, "layer": depth + 1, "mixer": mixer, "share": count / len(at)}
        for label, rows in (("front", result.front), ("all trained", result.trained))
        for depth in range(max((len(row.strip) for row in rows), default=0))
        if (at := [row for row in rows if len(row.strip) > depth])
        for mixer, count in Counter(row.strip[depth][0] for row in at).items()
    ]
    chart = (
        alt.Chart(values(data))
        .mark_bar()
        .encode(
            x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("share:Q", title="share", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            color=alt.Color(
                "mixer:N",
                title="token mixer",
                scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            ),
            column=alt.Column("set:N", title=None, sort=["front", "all trained"]),
        )
        .properties(width=170, height=190)
    )
    return styled(chart)


def most_telling(rows: list[Row], n: int) -> list[Row]:
    """At most ``n``: the front, the baselines, then the best by rank; in the order of trials."""
    last = len(rows) + 1

    def place(row: Row) -> tuple[bool, int, int]:
        kept = row.on_front or row.baseline is not None
        return not kept, last if row.rank is None else row.rank, row.trial

    return sorted(sorted(rows, key=place)[:n], key=lambda row: row.trial)


def _point(row: Row, x: str, y: str, result: SearchResult) -> dict[str, Any]:
    across, up = error_bar(row, x, result), error_bar(row, y, result)
    value = value_of(row, x)
    mixers = Counter(kind for kind, _ in row.strip if kind != "none")
    main = min(mixers, key=lambda kind: (-mixers[kind], kind)) if mixers else "none"
    tasks = ", ".join(f"{task} {score:.3f}" for task, score in row.scores.items())
    at = (
        f"{show(x, value)}, {show(y, row.objectives[y])}" if value is not None and y in row.objectives else ""
    )
    return {
        "x": value,
        "y": value_of(row, y),
        "low": across[0] if across else None,
        "high": across[1] if across else None,
        "down": up[0] if up else None,
        "up": up[1] if up else None,
        "front": row.on_front,
        "random": row.random,
        "baseline": row.baseline,
        "feasible": row.feasible,
        "mixer": main,
        "label": f"trial {row.trial}: {row.name}, {at}; {tasks}",
    }  # fmt: skip


def _main_mixer(members: list[dict[str, Any]], colours: dict[str, str]) -> Any:
    return alt.Color(
        "mixer:N",
        title="main token mixer",
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=alt.Legend(values=sorted({point["mixer"] for point in members})),
    )


def _marks(points: list[dict[str, Any]], shape: str, size: int) -> Any:
    mark = alt.Chart(values(points)).mark_point(filled=True, shape=shape, size=size)
    return mark.encode(description="label:N")


def error_bar(row: Row, quantity: str, result: SearchResult) -> tuple[float, float] | None:
    """The quartiles of a measured figure, or 95 % of the mean over seeds of a score."""
    if (found := row.measured.get(quantity)) is not None:
        return found.low, found.high
    return interval(row, quantity, result)


def _errors(points: list[dict[str, Any]], x: str, y: str) -> Any:
    shown = [point for point in points if point["front"] or point["baseline"]]
    scale = alt.X("x:Q", title=_title(x), scale=_x_scale(x, points))
    across = (
        alt.Chart(values([point for point in shown if point["low"] is not None]))
        .mark_rule(color="#666666", strokeWidth=1)
        .encode(x=alt.X("low:Q", title=_title(x), scale=_x_scale(x, points)), x2="high:Q", y="y:Q")
    )
    upright = (
        alt.Chart(values([point for point in shown if point["down"] is not None]))
        .mark_rule(color="#666666", strokeWidth=1)
        .encode(x=scale, y=alt.Y("down:Q", title=_title(y)), y2="up:Q")
    )
    return alt.layer(across, upright)


def _budget_lines(result: SearchResult, x: str, y: str, points: list[dict[str, Any]]) -> list[Any]:
    lines = []
    for limit in result.budgets:
        if limit.quantity not in (x, y) or not points:
            continue
        axis = "x" if limit.quantity == x else "y"
        data = values([{axis: limit.value, "text": f"{limit.quantity} {limit.text}"}])
        rule = alt.Chart(data).mark_rule(strokeDash=[6, 4], color="#b22222")
        channel = alt.X("x:Q", scale=_x_scale(x, points)) if axis == "x" else alt.Y("y:Q")
        edge = {"y": alt.value(8)} if axis == "x" else {"x": alt.value(6)}
        text = alt.Chart(data).mark_text(
            align="right" if axis == "x" else "left",
            dx=-4 if axis == "x" else 4,
            dy=-5,
            color="#b22222",
            fontSize=11,
            font=_FONT,
        )
        lines += [rule.encode(channel), text.encode(channel, text="text:N", **edge)]
    return lines


def _x_scale(x: str, points: list[dict[str, Any]]) -> Any:
    values = [point["x"] for point in points]
    wide = bool(values) and min(values) > 0 and max(values) / min(values) > 4
    return alt.Scale(type="log" if wide else "linear", zero=False, nice=not wide, padding=24)


def _step(result: SearchResult, x: str) -> Any:
    minimized = all(o.direction == "minimize" for o in result.objectives if o.quantity == x)
    return "step-after" if minimized else "step-before"


def _title(quantity: str) -> str:
    unit = find_quantity(quantity).unit
    words = quantity.removesuffix("_ms").replace("_", " ")
    return f"{words} ({unit})" if unit in ("ms", "B") else words


def _headline(result: SearchResult) -> str:
    return f"{result.study}: {len(result.front)} on the front of {len(result.trained)} trained"


def values(rows: list[dict[str, Any]]) -> Any:
    """Rows as the data of a chart."""
    return alt.Data(values=rows)


def styled(chart: Any) -> Any:
    """The chart in the report's type and colours."""
    return chart.configure(font=_FONT, background="white").configure_axis(
        labelFontSize=11, titleFontSize=12, gridColor="#ececec"
    )
