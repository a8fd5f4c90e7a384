"""What can be an objective or a budget: its unit, its sense, its bounds, and how ``"<= 256 MiB"`` is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from archspec.closed import Closed
from archspec.components import spec_problem
from archspec.errors import did_you_mean

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Quantity:
    """One figure of a candidate, and how it is known.

    ``closed form``: from the spec alone, before any weight exists; ``measured``: on the target, with fresh
    weights; ``trained``: from the tasks.
    """

    name: str
    unit: Literal["", "count", "B", "ms", "J", "tokens/s"]
    better: Direction
    basis: Literal["closed form", "measured", "trained"]
    most: float = math.inf  # no candidate is above
    least: float = 0.0  # no candidate is below

    @property
    def closed_form(self) -> bool:
        """Whether it is known from the spec alone."""
        return self.basis == "closed form"


_QUANTITIES = (
    Quantity("score", "", "maximize", "trained", most=1.0),
    Quantity("loss", "", "minimize", "trained"),
    Quantity("latency_ms", "ms", "minimize", "measured"),  # in the target's phase
    Quantity("prefill_ms", "ms", "minimize", "measured"),
    Quantity("decode_ms", "ms", "minimize", "measured"),  # one step
    Quantity("train_step_ms", "ms", "minimize", "measured"),
    Quantity("throughput", "tokens/s", "maximize", "measured"),  # in the target's phase
    Quantity("peak_memory", "B", "minimize", "measured"),  # by the device's allocator, in the target's phase
    Quantity("energy_j", "J", "minimize", "measured"),  # one run in the target's phase, by the device's meter
    Quantity("params", "count", "minimize", "closed form"),
    Quantity("params_active", "count", "minimize", "closed form"),
    Quantity("params_embedding", "count", "minimize", "closed form"),
    Quantity("flops", "count", "minimize", "closed form"),
    Quantity("flops_needed", "count", "minimize", "closed form"),
    Quantity("weights", "B", "minimize", "closed form"),
    Quantity("activations", "B", "minimize", "closed form"),
    Quantity("train_peak", "B", "minimize", "closed form"),
    Quantity("inference_peak", "B", "minimize", "closed form"),
    Quantity("kv_bytes_per_token", "B", "minimize", "closed form"),
    Quantity("state_bytes", "B", "minimize", "closed form"),
)
QUANTITIES = {quantity.name: quantity for quantity in _QUANTITIES}
CLOSED_FORM = tuple(quantity.name for quantity in _QUANTITIES if quantity.closed_form)
MEASURED = tuple(quantity.name for quantity in _QUANTITIES if quantity.basis == "measured")

_COUNTS = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12, "P": 1e15}
_SCALES = {
    "": {"": 1.0},
    "count": _COUNTS,
    "B": {
        "": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
    },
    "ms": {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3},
    "J": {"": 1.0, "J": 1.0, "mJ": 1e-3, "kJ": 1e3},
    "tokens/s": {"": 1.0, "tokens/s": 1.0, "k": 1e3, "k tokens/s": 1e3, "M": 1e6, "M tokens/s": 1e6},
}  # fmt: skip
_BUDGET = re.compile(
    r"(<=|>=)\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-zµ%][A-Za-zµ%/ ]*|)"
)


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
    """A hard limit, inclusive, in the quantity's base unit (bytes, ms, J); ``also`` is a second one."""

    quantity: str
    op: Literal["<=", ">="]
    value: float
    text: str = ""
    also: Budget | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or fields.keys() != {"quantity", "text"}:
            return fields
        quantity, text = fields["quantity"], fields["text"]
        sides = [_side(quantity, part) for part in text.split(",")] if isinstance(text, str) else []
        if not 1 <= len(sides) <= 2:
            raise _unreadable(text)
        first, *rest = sides
        for second in rest:
            _check_both(first, second)
        return {**first, "text": text, "also": {**rest[0], "text": text} if rest else None}

    @property
    def sides(self) -> tuple[Budget, ...]:
        """Its one or two limits apart."""
        if self.also is None:
            return (self,)
        return tuple(side.model_copy(update={"text": "", "also": None}) for side in (self, self.also))

    def allows(self, value: float) -> bool:
        """Whether ``value`` is within the budget."""
        return self.excess(value) <= 0

    def excess(self, value: float) -> float:
        """How far ``value`` is outside, in the quantity's unit; zero or less inside."""
        own = value - self.value if self.op == "<=" else self.value - value
        return own if self.also is None else max(own, self.also.excess(value))

    def limit(self, op: Literal["<=", ">="]) -> float | None:
        """Its limit from above or from below, None if there is none."""
        return next((side.value for side in self.sides if side.op == op), None)

    @property
    def key(self) -> tuple[str | float, ...]:
        """What two budgets that allow the same have in common."""
        return tuple(part for side in self.sides for part in (side.op, side.value))

    def __str__(self) -> str:
        return f"{self.quantity} {self.text or f'{self.op} {self.value:g}'}"


def _side(name: str, text: str) -> dict[str, Any]:
    """One limit as fields; SpecError if it cannot be read, or met by anything."""
    quantity = find_quantity(name)
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        raise _unreadable(text)
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
            f"no candidate can have {name} {op} {number}{unit}: "
            f"it is never {'below' if op == '<=' else 'above'} {bound:g}"
        )
    return {"quantity": name, "op": op, "value": value}


def _check_both(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Two limits on one quantity are one from above and one from below, with room between them."""
    if first["op"] == second["op"]:
        raise spec_problem(f"two limits '{first['op']}' on {first['quantity']}", "write the tighter one")
    low, high = sorted((first, second), key=lambda side: side["op"], reverse=True)
    if low["value"] > high["value"]:
        raise spec_problem(
            f"the budgets contradict each other: no number is >= {low['value']:g} and <= {high['value']:g}"
        )


def _unreadable(text: object) -> PydanticCustomError:
    return spec_problem(
        f"a budget is '<= number' or '>= number', got {text!r}",
        "write it in quotes, as '<= 300k' or '>= 100k, <= 300k'",
    )


def show(quantity: str, value: float) -> str:
    """``value`` as people write it: 1.21M, 3.4 MiB, 5.31 ms, 0.912."""
    unit = find_quantity(quantity).unit
    match unit:
        case "count":
            return _scaled(value, "")
        case "tokens/s":
            return _scaled(value, " tokens/s")
        case "B":
            for power, word in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
                if value >= 2**power:
                    return f"{value / 2**power:.3g} {word}"
            return f"{value:.0f} B"
        case "J":
            return f"{value:.3g} J" if value >= 1 else f"{1e3 * value:.3g} mJ"
        case "ms":
            return f"{value:.3g} ms"
    return f"{value:.3f}"


def _scaled(value: float, unit: str) -> str:
    for scale, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3g}{letter}{unit}"
    return f"{value:.0f}{unit}"
