"""How the hypervolume grows with what is spent: the search, random search, baselines."""

from __future__ import annotations

from typing import Any

import altair as alt

from search.equal_budget import rivals
from search.front import HypervolumePoint, SearchResult
from search.report.charts import styled, values

_MOST_POINTS = 400


def hypervolume_chart(result: SearchResult, *, cost: str) -> Any:
    """``cost`` is "candidates" or "seconds" of training; each curve counts what it has spent itself."""
    curves = {"the search": result.hypervolume_search, "random search": result.hypervolume_random}
    points = [point for name, curve in curves.items() for point in _curve(name, curve, cost)]
    spent = "candidates trained" if cost == "candidates" else "training (s)"
    names = [name for name, curve in curves.items() if curve]
    line = (
        alt.Chart(values(points))
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("cost:Q", title=spent, axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("hypervolume:Q", title="hypervolume (1 = ideal)", scale=alt.Scale(zero=True)),
            color=alt.Color(
                "name:N",
                title=None,
                scale=alt.Scale(domain=names, range=["#0072b2", "#d55e00"][: len(names)]),
                legend=alt.Legend(orient="top"),
            ),
            strokeDash=alt.condition("datum.name == 'random search'", alt.value([5, 3]), alt.value([1, 0])),
        )
    )
    flat = [
        {"y": rival.hypervolume, "name": rival.name}
        for rival in rivals(result)
        if rival.rows and rival.name != "random search"
    ]
    rules = alt.Chart(values(flat)).mark_rule(strokeDash=[2, 3], color="#111111").encode(y="y:Q")
    names_at = (
        alt.Chart(values(flat))
        .mark_text(align="left", dx=4, dy=-5, fontSize=10)
        .encode(y="y:Q", x=alt.value(0), text="name:N")
    )
    return styled(alt.layer(rules, names_at, line).properties(width=400, height=210))


def _curve(name: str, curve: tuple[HypervolumePoint, ...], cost: str) -> list[dict[str, Any]]:
    """A step curve from nothing; of a long one, the points where it rises and an even sample."""
    if not curve:
        return []
    step = max(1, len(curve) // _MOST_POINTS)
    kept = [point for i, point in enumerate(curve) if i % step == 0 or i == len(curve) - 1]
    start = [{"cost": 0, "hypervolume": 0.0, "name": name}]
    return start + [
        {
            "cost": point.n_trained if cost == "candidates" else point.seconds,
            "hypervolume": point.value,
            "name": name,
        }
        for point in kept
    ]
