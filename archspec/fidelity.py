"""The grammar of fidelity: the rungs that candidates climb, how many go on, and what a score is made of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import InitErrorDetails

from archspec.closed import Closed
from archspec.components import spec_problem
from archspec.errors import shown

_FEWEST_AUDITED = 8  # fewer say nothing about a rank correlation
_SHARE_FORM = "write a share as 1/9 or 0.25"


def _share(value: Any) -> Fraction:
    """``"1/9"``, ``0.25`` or 1 -> a share, more than 0 and at most 1."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
            raise ValueError
        share = Fraction(str(value).replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        raise spec_problem(f"must be a share of the whole, got {shown(value)}", _SHARE_FORM) from None
    if not 0 < share <= 1:
        raise spec_problem(f"must be more than 0 and at most 1, got {value}", _SHARE_FORM)
    return share


_FORMS: list[dict[str, Any]] = [
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "string", "pattern": r"^\s*[0-9]+\s*/\s*[0-9]+\s*$|^[0-9]*\.?[0-9]+$"},
]
Share = Annotated[
    Fraction, PlainValidator(_share), PlainSerializer(str, return_type=str), WithJsonSchema({"anyOf": _FORMS})
]


class Rung(Closed):
    """One rung: which share of the whole training a candidate gets there."""

    steps: Share = Field(Fraction(1), description="share of the recipe's steps: a prefix of the same run")
    seq_len: Share = Field(
        Fraction(1), description="share of the tasks' sequence length; its weights do not go on"
    )
    width: Share = Field(Fraction(1), description="share of d_model; its weights do not go on")
    seeds: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="how many of the study's seeds; by default all"
    )

    @property
    def is_full(self) -> bool:
        """Whether it is the whole training with every seed."""
        return self.seeds is None and self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether one of its trainings is the whole one."""
        return self.steps == self.seq_len == self.width == 1

    @property
    def training(self) -> str:
        """What one of its trainings is, in words: ``steps 1/9, seq_len 1/2``, or ``full``."""
        named = (("steps", self.steps), ("seq_len", self.seq_len), ("width", self.width))
        return ", ".join(f"{name} {share}" for name, share in named if share != 1) or "full"

    def __str__(self) -> str:
        if self.seeds is None:
            return self.training
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return seeds if self.is_whole else f"{self.training}, {seeds}"

    def continues(self, lower: Rung) -> bool:
        """Whether a training goes on here from its weights at ``lower``."""
        return (self.seq_len, self.width) == (lower.seq_len, lower.width) and self.steps >= lower.steps

    def work(self, n_seeds: int) -> Fraction:
        """Its share of the whole work, taking that as proportional to width squared."""
        return (
            self.steps * self.seq_len * self.width**2 * Fraction(min(self.seeds or n_seeds, n_seeds), n_seeds)
        )


def _rung(value: Any) -> Any:
    """``full`` and a bare share of the steps are short for a mapping."""
    if value == "full":
        return {}
    if isinstance(value, str) and "/" not in value and not value.replace(".", "", 1).isdigit():
        raise spec_problem(
            f"a rung is a share of the steps, a mapping, or 'full', got {shown(value)}",
            "as in rungs: [1/9, full] or rungs: [{steps: 1/9, seq_len: 1/2}, full]",
        )
    return {"steps": value} if isinstance(value, int | float | str) else value


def _rung_schema() -> dict[str, Any]:
    share = {"anyOf": _FORMS}
    fields = {"steps": share, "seq_len": share, "width": share, "seeds": {"type": "integer", "minimum": 1}}
    mapping = {"type": "object", "properties": fields, "additionalProperties": False}
    return {"anyOf": [{"const": "full"}, *_FORMS, mapping]}


RungSlot = Annotated[Rung, BeforeValidator(_rung), WithJsonSchema(_rung_schema())]


class Fidelity(Closed):
    """How far candidates are trained: all of them wholly, or up a ladder that only the better ones climb."""

    rungs: Annotated[tuple[RungSlot, ...], Field(min_length=1, max_length=6)] = Field(
        (Rung(),), description="from the least work to 'full': [1/9, full]; a bare share is of the steps"
    )
    promote: Share = Field(Fraction(1, 3), description="share of a round's candidates that go on from a rung")
    audit: Annotated[int, Field(ge=0, le=200)] = Field(
        12,
        description="candidates, drawn evenly over the sizes, that climb every rung first: the ladder is "
        "used only if its ranks agree with the top rung's better than params and FLOPs do; 0: no such test",
    )
    keep_rates: Annotated[int, Field(ge=1, le=20)] = Field(
        1, description="learning rates that go on from the lowest rung, the best ones there"
    )

    @property
    def is_ladder(self) -> bool:
        """Whether there is a rung below the top."""
        return len(self.rungs) > 1

    @field_validator("rungs")
    @classmethod
    def _ends_in_full(cls, rungs: tuple[Rung, ...]) -> tuple[Rung, ...]:
        if not rungs[-1].is_full:
            raise _at(len(rungs) - 1, f"the last rung must be 'full', got '{rungs[-1]}'")
        for index, rung in enumerate(rungs[:-1]):
            if rung.is_full:
                raise _at(index, "only the last rung is 'full'")
        return rungs

    @field_validator("audit")
    @classmethod
    def _is_enough(cls, n: int) -> int:
        if 0 < n < _FEWEST_AUDITED:
            raise spec_problem(f"an audit takes at least {_FEWEST_AUDITED} candidates, got {n}", "or 0: none")
        return n

    @field_validator("promote")
    @classmethod
    def _is_part(cls, share: Fraction) -> Fraction:
        if share == 1:
            raise spec_problem("must be less than 1: somebody has to stay behind", "as in promote: 1/3")
        return share

    def check_seeds(self, n_seeds: int) -> None:
        """Refuse rungs that ask for more seeds than there are, or for no more work than the one before."""
        for index, rung in enumerate(self.rungs):
            if rung.seeds is not None and rung.seeds > n_seeds:
                raise _at(index, f"{rung.seeds} seeds, but the study has {n_seeds}", under="rungs")
        for index, (lower, upper) in enumerate(itertools.pairwise(self.rungs), start=1):
            if upper.work(n_seeds) <= lower.work(n_seeds):
                raise _at(
                    index,
                    f"'{upper}' is no more work than '{lower}' before it: rungs go up",
                    under="rungs",
                )

    def cuts_rates(self, n_rates: int) -> bool:
        """Whether some learning rates do not go on from the lowest rung."""
        return not self.rungs[0].is_whole and self.keep_rates < n_rates

    def label(self, index: int, n_rates: int) -> str:
        """The ledger's word for a training of rung ``index``; ``full`` where it is a whole grid's."""
        rung = self.rungs[index].training
        if index == 0 or not self.cuts_rates(n_rates):
            return rung
        return f"{rung}, best {self.keep_rates} after {self.rungs[0].training}"

    def cost(self, climbed: Sequence[int], *, n_rates: int, n_seeds: int) -> Fraction:
        """What a candidate costs that climbed these rungs, in whole trainings with every learning rate."""
        kept = Fraction(min(self.keep_rates, n_rates), n_rates) if self.cuts_rates(n_rates) else Fraction(1)
        rungs = [self.rungs[index] for index in climbed]
        total = rungs[0].work(n_seeds)
        for lower, upper in itertools.pairwise(rungs):
            done = lower.work(n_seeds) if upper.continues(lower) else Fraction(0)
            total += kept * (upper.work(n_seeds) - done)
        return total


class StepsTo(Closed):
    """Score by speed: the share of the steps that is left when the validation score reaches this."""

    steps_to: Annotated[float, Field(gt=0, le=1)]


def _score_by(value: Any) -> Any:
    if isinstance(value, StepsTo) or value in ("final", "area"):
        return value
    if isinstance(value, dict):
        return StepsTo.model_validate(value)
    raise spec_problem(f"must be final, area or a mapping such as {{steps_to: 0.9}}, got {shown(value)}")


_STEPS_TO = {
    "type": "object",
    "properties": {"steps_to": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}},
    "required": ["steps_to"],
    "additionalProperties": False,
}
ScoreBy = Annotated[
    Literal["final", "area"] | StepsTo,
    BeforeValidator(_score_by),
    WithJsonSchema({"anyOf": [{"enum": ["final", "area"]}, _STEPS_TO]}),
]


def _at(index: int, message: str, *, under: str | None = None) -> ValidationError:
    """An error at one item of the list that is being validated, or of the list ``under`` the value."""
    loc: Sequence[str | int] = (index,) if under is None else (under, index)
    line = InitErrorDetails(type=spec_problem(message), loc=tuple(loc), input=None)
    return ValidationError.from_exception_data("Fidelity", [line])
