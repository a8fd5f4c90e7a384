"""What can be an objective or a budget: its unit, its sense, its bounds, and how ``"<= 256 MiB"`` is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator

from archspec.closed import Closed
from archspec.components import spec_problem
from archspec.errors import did_you_mean

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Quantity:
    """One figure of a candidate. ``closed_form``: known from the spec alone, before any weight exists."""

    name: str
    unit: Literal["", "count", "B", "ms"]
    better: Direction
    closed_form: bool
    most: float = math.inf  # no candidate is above
    least: float = 0.0  # no candidate is below


_QUANTITIES = (
    Quantity("score", "", "maximize", closed_form=False, most=1.0),
    Quantity("loss", "", "minimize", closed_form=False),
    Quantity("latency_ms", "ms", "minimize", closed_form=False),
    Quantity("params", "count", "minimize", closed_form=True),
    Quantity("params_active", "count", "minimize", closed_form=True),
    Quantity("params_embedding", "count", "minimize", closed_form=True),
    Quantity("flops", "count", "minimize", closed_form=True),
    Quantity("flops_needed", "count", "minimize", closed_form=True),
    Quantity("weights", "B", "minimize", closed_form=True),
    Quantity("activations", "B", "minimize", closed_form=True),
    Quantity("train_peak", "B", "minimize", closed_form=True),
    Quantity("inference_peak", "B", "minimize", closed_form=True),
    Quantity("kv_bytes_per_token", "B", "minimize", closed_form=True),
    Quantity("state_bytes", "B", "minimize", closed_form=True),
)
QUANTITIES = {quantity.name: quantity for quantity in _QUANTITIES}
CLOSED_FORM = tuple(quantity.name for quantity in _QUANTITIES if quantity.closed_form)

_SCALES = {
    "": {"": 1.0},
    "count": {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15},
    "B": {
        "": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    },
    "ms": {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3},
}  # fmt: skip
_BUDGET = re.compile(r"(<=|>=)\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-zµ%]*)")


def find_quantity(name: str) -> Quantity:
    """The quantity ``name`` means; ``score.copy`` and ``loss.copy`` are those of one task."""
    base, dot, label = name.partition(".")
    found = QUANTITIES.get(base)
    if found is None:
        raise spec_problem(f"unknown quantity '{name}'", did_you_mean(base, QUANTITIES))
    if dot and (base not in {"score", "loss"} or not label):
        raise spec_problem(f"unknown quantity '{name}'", "only score.TASK and loss.TASK belong to one task")
    return found


class Budget(Closed):
    """A hard limit, inclusive, in the quantity's base unit (bytes, ms, a plain number)."""

    quantity: str
    op: Literal["<=", ">="]
    value: float
    text: str = ""

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or fields.keys() != {"quantity", "text"}:
            return fields
        quantity, text = find_quantity(fields["quantity"]), fields["text"]
        match = _BUDGET.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise spec_problem(
                f"a budget is '<= number' or '>= number', got {text!r}", "write it in quotes, as '<= 300k'"
            )
        op, number, unit = match.groups()
        scales = _SCALES[quantity.unit]
        if unit not in scales:
            known = ", ".join(word for word in scales if word)
            raise spec_problem(
                f"{quantity.name} has no unit '{unit}'",
                f"units here: {known}" if known else "it is a plain number",
            )
        value = float(number.replace("_", "")) * scales[unit]
        if (op == "<=" and value < quantity.least) or (op == ">=" and value > quantity.most):
            bound = quantity.least if op == "<=" else quantity.most
            raise spec_problem(
                f"no candidate can have {fields['quantity']} {op} {number}{unit}: "
                f"it is never {'below' if op == '<=' else 'above'} {bound:g}"
            )
        return {**fields, "op": op, "value": value}

    def allows(self, value: float) -> bool:
        """Whether ``value`` is within the budget."""
        return value <= self.value if self.op == "<=" else value >= self.value

    def excess(self, value: float) -> float:
        """How far ``value`` is outside, in the quantity's unit; zero or less inside."""
        return value - self.value if self.op == "<=" else self.value - value

    def __str__(self) -> str:
        return f"{self.quantity} {self.text or f'{self.op} {self.value:g}'}"


def show(quantity: str, value: float) -> str:
    """``value`` as people write it: 1.21M, 3.4 MiB, 5.31 ms, 0.912."""
    unit = find_quantity(quantity).unit
    if unit == "count":
        for scale, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= scale:
                return f"{value / scale:.3g}{letter}"
        return f"{value:.0f}"
    if unit == "B":
        for power, word in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
            if value >= 2**power:
                return f"{value / 2**power:.3g} {word}"
        return f"{value:.0f} B"
    return f"{value:.3g} ms" if unit == "ms" else f"{value:.3f}"
