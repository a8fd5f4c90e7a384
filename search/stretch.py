"""What a training job is told of its rung: where to stop, what to keep, which learning rates to try."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archspec.fidelity import Fidelity
from search.recipe import Recipe


def stretch(fidelity: Fidelity, recipe: Recipe, index: int, whole: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that rung ``index`` adds to ``whole``, the job of an uninterrupted training."""
    found = _reached(fidelity, recipe, index)
    if index > 0 and fidelity.cuts_rates(len(recipe.learning_rates)):
        found["sweep"] = {"directory": whole["directory"], **_reached(fidelity, recipe, 0)}
    return found


def _reached(fidelity: Fidelity, recipe: Recipe, index: int) -> dict[str, Any]:
    rung = fidelity.rungs[index]
    above = fidelity.rungs[index + 1 :]
    found: dict[str, Any] = {
        "until_step": None if rung.steps == 1 else max(1, round(rung.steps * recipe.steps)),
        "goes_on": any(upper.continues(rung) and upper.steps > rung.steps for upper in above),
    }
    if index == 0 and fidelity.cuts_rates(len(recipe.learning_rates)):
        found["keep_rates"] = fidelity.keep_rates
    return found
