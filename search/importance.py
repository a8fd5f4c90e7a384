"""Which genes mattered: Optuna's PED-ANOVA on the genome, for each objective.

It tells how much the spread of each gene's values among the better quarter of the trials differs from its
spread among all of them. Genes of branches that were not taken are noise in it, and random candidates are
data like others.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from search.front import Objective, Row, SearchResult

METHOD = "PED-ANOVA (Optuna), better quarter against all"
N_LEAST = 24  # PED-ANOVA asks for five trials in the better quarter, with some to spare
_QUANTILE = 0.25
_N_OPTIONS = 12  # distinct numbers beyond which a gene is a range


@dataclass(frozen=True)
class Importance:
    """By gene, its share in what made the better trials better; the largest first."""

    objective: str
    n_trials: int
    shares: Mapping[str, float]


def importances(result: SearchResult) -> tuple[Importance, ...]:
    """One for each objective; none with fewer than ``N_LEAST`` trials that have genes."""
    rows = [row for row in result.trained if row.genes]
    names = _varied(rows)
    if len(rows) < N_LEAST or not names:
        return ()
    return tuple(_importance(rows, names, objective) for objective in result.objectives)


def n_with_genes(result: SearchResult) -> int:
    """How many trials there are to judge by."""
    return sum(bool(row.genes) for row in result.trained)


def _varied(rows: Sequence[Row]) -> list[str]:
    """Genes that every row has and that differ somewhere."""
    if not rows:
        return []
    shared = [name for name in rows[0].genes if all(name in row.genes for row in rows)]
    return [name for name in shared if len({_key(row.genes[name]) for row in rows}) > 1]


def _importance(rows: Sequence[Row], names: Sequence[str], objective: Objective) -> Importance:
    distributions = {name: _distribution([row.genes[name] for row in rows]) for name in names}
    values = [objective.sign * row.objectives[objective.quantity] for row in rows]
    if len(set(values)) < 2:
        return Importance(objective.quantity, len(rows), {})
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(direction="minimize")
            for row, value in zip(rows, values, strict=True):
                genes = {name: _key(row.genes[name]) for name in names}
                trial = optuna.trial.create_trial(params=genes, distributions=distributions, value=value)
                study.add_trial(trial)
            evaluator = optuna.importance.PedAnovaImportanceEvaluator(
                target_quantile=_QUANTILE, evaluate_on_local=False
            )
            found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(before)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return Importance(objective.quantity, len(rows), dict(ordered))


def _distribution(values: Sequence[Any]) -> optuna.distributions.BaseDistribution:
    distinct = {_key(value) for value in values}
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    if is_number and len(distinct) > _N_OPTIONS:
        return optuna.distributions.FloatDistribution(float(min(distinct)), float(max(distinct)))
    return optuna.distributions.CategoricalDistribution(
        sorted(distinct, key=lambda value: (str(type(value)), value))
    )


def _key(value: Any) -> Any:
    """A gene's value as Optuna takes it."""
    return value if isinstance(value, bool | int | float | str) else repr(value)
