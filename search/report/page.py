"""SearchResult -> the HTML page: everything shown is put into words here, escaped by the templates."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from archspec.quantities import show
from search import importance
from search.cards import cards
from search.equal_budget import compared, rivals
from search.front import Row, SearchResult
from search.report.candidates import candidates
from search.report.card_words import card_words
from search.report.charts import depth_chart, front_chart, svg
from search.report.hypervolume_chart import hypervolume_chart
from search.report.palette import mixer_colours, token_mixers

_MOST_CARDS = 40
_MOST_UNTRAINED = 200
_MOST_GENES = 12
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render(result: SearchResult) -> str:
    """The page as one string; it loads nothing, and its policy allows no script but its own."""
    script = resources.files(__package__).joinpath("page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    untrained = [row for row in result.rows if row.status in ("failed", "refused")]
    told = cards(result)
    return _environment().get_template("page.html").render(
        result=result,
        script=script,
        policy=f"{_POLICY}; script-src 'sha256-{digest}'",
        style=resources.files(__package__).joinpath("page.css").read_text("utf-8"),
        scatter=svg(front_chart(result)) if result.trained else "",
        hypervolumes=_hypervolumes(result),
        depth=svg(depth_chart(result)) if result.trained else "",
        token_colours=token_mixers(result),
        channel_colours=mixer_colours(channel for row in result.rows for _, channel in row.strip),
        table=candidates(result),
        cards=[card_words(card, result) for card in told[:_MOST_CARDS]],
        n_cards=len(told),
        importances=importance.importances(result),
        n_with_genes=importance.n_with_genes(result),
        importance=importance,
        most_genes=_MOST_GENES,
        rivals=rivals(result),
        compared=compared(result),
        untrained=untrained[:_MOST_UNTRAINED],
        n_untrained=len(untrained),
        aggregates=_aggregates(result),
        n_dropped=sum(row.status == "dropped" for row in result.rows),
        n_duplicates=sum(row.status == "duplicate" for row in result.rows),
        provenance=json.dumps(dict(result.provenance), indent=2, sort_keys=True, default=str),
        show=show,
        best_of=lambda rows: _best(rows, result),
    )  # fmt: skip


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("search.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _hypervolumes(result: SearchResult) -> list[str]:
    """Over candidates, and over seconds of training unless the search keeps no clock."""
    if not result.hypervolume_search:
        return []
    is_timed = not result.provenance.get("deterministic", False)
    costs = ("candidates", "seconds") if is_timed else ("candidates",)
    return [svg(hypervolume_chart(result, cost=cost)) for cost in costs]


def _best(rows: Sequence[Row], result: SearchResult) -> str:
    """The best first objective among the feasible of ``rows``."""
    first = result.objectives[0]
    found = [row.objectives[first.quantity] for row in rows if row.feasible]
    return (
        show(first.quantity, min(found, key=lambda value: first.sign * value)) if found else "none feasible"
    )


def _aggregates(result: SearchResult) -> str:
    """Whether the front depends on how the tasks' scores are put together."""
    fronts = {name: set(trials) for name, trials in result.fronts_by_aggregate.items()}
    if len(fronts) < 2 or len(result.tasks) < 2:
        return ""
    if len({frozenset(trials) for trials in fronts.values()}) == 1:
        return "The front is the same whether the tasks' scores are averaged or the worst one counts."
    counts = "; ".join(f"{name}: trials {', '.join(map(str, sorted(t)))}" for name, t in fronts.items())
    return f"The front changes with the way the tasks' scores are put together ({counts})."
