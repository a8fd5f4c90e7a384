"""SearchResult -> the HTML page: everything shown is put into words here, escaped by the template."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from archspec.quantities import show
from search.front import Row, SearchResult
from search.report.charts import depth_chart, front_chart, hypervolume_chart, svg
from search.report.palette import mixer_colours, token_mixers

_COSTS = ("params", "flops", "inference_peak", "kv_bytes_per_token", "state_bytes")


def render(result: SearchResult) -> str:
    """The page as one string; it loads nothing, and its policy allows no script but its own."""
    script = resources.files(__package__).joinpath("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template("page.html")
    return template.render(
        result=result,
        script=script,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
        style=resources.files(__package__).joinpath("page.css").read_text("utf-8"),
        scatter=svg(front_chart(result)) if result.trained else "",
        hypervolume=svg(hypervolume_chart(result)) if result.hypervolume else "",
        depth=svg(depth_chart(result)) if result.trained else "",
        token_colours=token_mixers(result),
        channel_colours=mixer_colours(channel for row in result.rows for _, channel in row.strip),
        rows=[_shown(row, result) for row in _in_order(result)],
        untrained=[row for row in result.rows if row.status in ("failed", "refused")][:200],
        cost_names=_cost_names(result),
        aggregates=_aggregates(result),
        n_dropped=sum(row.status == "dropped" for row in result.rows),
        n_duplicates=sum(row.status == "duplicate" for row in result.rows),
        provenance=json.dumps(dict(result.provenance), indent=2, sort_keys=True, default=str),
        show=show,
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("search.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _in_order(result: SearchResult) -> list[Row]:
    """The front, then the baselines, then the rest by rank."""
    front = list(result.front)
    baselines = [row for row in result.baselines if row.status == "done" and not row.on_front]
    rest = [row for row in result.trained if not row.on_front and row.baseline is None]
    last = len(result.rows)
    return (
        front + baselines + sorted(rest, key=lambda row: (last if row.rank is None else row.rank, row.trial))
    )


def _cost_names(result: SearchResult) -> list[str]:
    shown = {objective.quantity for objective in result.objectives}
    return [name for name in _COSTS if name not in shown and any(name in row.costs for row in result.trained)]


def _shown(row: Row, result: SearchResult) -> dict[str, Any]:
    """A table row in words."""
    group = (
        "front"
        if row.on_front
        else "baseline"
        if row.baseline
        else "dominated"
        if row.feasible
        else "outside"
    )
    return {
        "row": row,
        "group": group,
        "objectives": [_objective(row, objective.quantity) for objective in result.objectives],
        "scores": [
            (
                _score(row.scores.get(task.label), row.score_spread.get(task.label)),
                _score(row.test_scores.get(task.label), None),
            )
            for task in result.tasks
        ],
        "costs": [show(name, row.costs[name]) if name in row.costs else "" for name in _cost_names(result)],
    }  # fmt: skip


def _objective(row: Row, quantity: str) -> str:
    if quantity not in row.objectives:
        return "—"
    text = show(quantity, row.objectives[quantity])
    if quantity == "latency_ms" and row.latency is not None:
        text += f" [{row.latency.low:.3g}, {row.latency.high:.3g}]"
    return text


def _score(score: float | None, spread: float | None) -> str:
    if score is None:
        return "—"
    return f"{score:.3f} ± {spread / 2:.3f}" if spread else f"{score:.3f}"


def _aggregates(result: SearchResult) -> str:
    """Whether the front depends on how the tasks' scores are put together."""
    fronts = {name: set(trials) for name, trials in result.fronts_by_aggregate.items()}
    if len(fronts) < 2 or len(result.tasks) < 2:
        return ""
    if len({frozenset(trials) for trials in fronts.values()}) == 1:
        return "The front is the same whether the tasks' scores are averaged or the worst one counts."
    counts = "; ".join(f"{name}: trials {', '.join(map(str, sorted(t)))}" for name, t in fronts.items())
    return f"The front changes with the way the tasks' scores are put together ({counts})."
