"""What a training job is told of its rung: where to stop, what goes on from there, and the narrower twin."""

from __future__ import annotations

from typing import Any

from archspec import ModelSpec
from archspec.dump import dump_spec
from archspec.fidelity import Fidelity, Rung
from archspec.proxy import Proxy, Shrink
from search.layers import without_empty_layers
from search.recipe import Recipe
from search.shrink import shrink
from zoo import Zoo


def reached(fidelity: Fidelity, recipe: Recipe, index: int) -> dict[str, Any]:
    """Where rung ``index`` stops, whether a higher one goes on from there, and how many rates it leaves."""
    rung = fidelity.rungs[index]
    above = fidelity.rungs[index + 1 :]
    found: dict[str, Any] = {
        "until_step": None if rung.steps == 1 else max(1, round(rung.steps * recipe.steps)),
        "goes_on": any(upper.continues(rung) and upper.steps > rung.steps for upper in above),
    }
    if index == 0 and fidelity.cuts_rates(len(recipe.learning_rates)):
        found["keep_rates"] = fidelity.keep_rates
    return found


def twins(spec: ModelSpec, fidelity: Fidelity, zoo: Zoo) -> dict[str, str]:
    """By the share of its width, every twin of ``spec`` that some rung trains, or a SpecError."""
    shares = {rung.width for rung in fidelity.rungs if rung.width != 1}
    return {
        str(share): dump_spec(
            without_empty_layers(shrink(spec, Proxy(shrink=Shrink(d_model=str(share))), zoo))
        )
        for share in sorted(shares)
    }


def folder_of(rung: Rung) -> str:
    """What a rung's weights are kept under: those of another width or length are apart from the others'."""
    named = (("seq_len", rung.seq_len), ("width", rung.width))
    return "".join(f"-{name}_{share}".replace("/", "_") for name, share in named if share != 1)
