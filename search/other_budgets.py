"""A finished search under other budgets: what enters its front, what leaves it, and what nobody can know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from archspec.errors import SpecError, shown
from archspec.quantities import Budget, find_quantity
from search.front import Limit, SearchResult
from search.solve import load_result

_BUDGET = re.compile(r"(?P<name>[A-Za-z_][A-Za-z_.0-9]*)\s*(?:=\s*none|(?P<limit>[<>]=.*))")


@dataclass(frozen=True)
class Moves:
    """The front under other budgets, by trials; ``unseen`` says who was never trained."""

    result: SearchResult
    entered: tuple[int, ...]
    left: tuple[int, ...]
    unseen: tuple[str, ...]


def resolve_under(folder: Path, texts: Iterable[str]) -> Moves:
    """Solve the search in ``folder`` with the budgets that ``texts`` say; the others stay as they are.

    ``"params<=200k"`` sets one, ``"params=none"`` takes it away. Nothing runs.
    """
    before = load_result(folder)
    budgets = {limit.quantity: _budget(limit.quantity, limit.text) for limit in before.budgets}
    for text in texts:
        match = _BUDGET.fullmatch(text.strip())
        if match is None:
            raise SpecError(
                f"a budget is 'quantity<=number' or 'quantity>=number', got {shown(text)}",
                hint="write it in quotes, as 'params<=200k'; 'params=none' takes it away",
            )
        name = match["name"]
        budgets.pop(name, None)
        if match["limit"] is not None:
            budgets[name] = _budget(name, match["limit"])
    after = load_result(folder, budgets=budgets)
    was, now = ({row.trial for row in result.front} for result in (before, after))
    return Moves(after, tuple(sorted(now - was)), tuple(sorted(was - now)), _unseen(before, budgets))


def _budget(name: str, text: str) -> Budget:
    try:
        find_quantity(name)
        return Budget.model_validate({"quantity": name, "text": text})
    except ValidationError as error:
        context = error.errors()[0].get("ctx", {})
        raise SpecError(error.errors()[0]["msg"], hint=context.get("hint")) from error
    except PydanticCustomError as error:
        raise SpecError(error.message(), hint=(error.context or {}).get("hint")) from error


def _unseen(before: SearchResult, budgets: dict[str, Budget]) -> tuple[str, ...]:
    """A wider budget cannot bring back what the old one kept from being trained."""
    return tuple(
        f"{limit.n_refused} candidates that {limit.quantity} {limit.text} turned away were never trained; "
        "a search with the new budget may train them"
        for limit in before.budgets
        if limit.n_refused and _is_wider(limit, budgets.get(limit.quantity))
    )


def _is_wider(limit: Limit, budget: Budget | None) -> bool:
    if budget is None or budget.op != limit.op:
        return True
    return budget.value > limit.value if limit.op == "<=" else budget.value < limit.value
