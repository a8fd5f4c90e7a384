"""What the fillings of a space are like: is each option in a valid one, and how many are there?"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from archspec.components import Components
from archspec.errors import Problem, SpecError, shown
from archspec.holes import Hole
from archspec.identity import spec_hash
from archspec.nodes import walk
from archspec.space import Space
from archspec.spec import ModelSpec

_ENUMERATED = 400  # fillings up to which all are tried
_SAMPLED = 100
_DIRECTED = 40  # tries for an option that no sample has shown valid


@dataclass
class Survey:
    """``n_fillings`` counts fillings (inf with a float hole); the rest is about those that were tried."""

    n_fillings: float
    is_exact: bool
    tried_all: bool
    n_tried: int = 0
    n_valid: int = 0
    hashes: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Stable keys; ``fillings`` is null where they cannot be counted."""
        return {
            "fillings": None if math.isinf(self.n_fillings) else int(self.n_fillings),
            "fillings_exact": self.is_exact,
            "tried": self.n_tried,
            "tried_all": self.tried_all,
            "valid": self.n_valid,
            "architectures": len(self.hashes),
        }

    def summary(self) -> str:
        """One sentence: the count and where it comes from."""
        if math.isinf(self.n_fillings):
            count = "infinitely many fillings (a float hole)"
        else:
            count = f"{'' if self.is_exact else 'at most '}{int(self.n_fillings):,} fillings"
        tried = "all tried" if self.tried_all else f"{self.n_tried:,} sampled"
        return f"{count}; {tried}: {self.n_valid:,} valid, {len(self.hashes):,} different architectures"


def survey(
    space: Space, components: Components, *, check: Callable[[ModelSpec], None], seed: int = 0
) -> Survey:
    """Try fillings; an option that stands in no valid one is a problem with the option's place.

    ``check`` raises a SpecError for a spec that does not compile. A small space is tried whole.
    """
    n_fillings, is_exact = space.count()
    found = Survey(n_fillings, is_exact, tried_all=n_fillings <= _ENUMERATED)
    surveyor = _Surveyor(space, components, check, found)
    rng = random.Random(seed)  # noqa: S311 (reproducible, not secret)
    fillings = space.enumerate() if found.tried_all else (space.sample(rng) for _ in range(_SAMPLED))
    for genes in fillings:
        surveyor.attempt(genes)
    surveyor.settle_options(rng)
    return found


class _Surveyor:
    def __init__(
        self, space: Space, components: Components, check: Callable[[ModelSpec], None], found: Survey
    ):
        self.space = space
        self.components = components
        self.check = check
        self.found = found
        self.shown_valid: set[tuple[str, str]] = set()  # genes with an option as text
        self.reasons: dict[tuple[str, str], Problem] = {}
        self.places = {(hole.gene, repr(value)): _places(hole, value) for hole, value in _options(space)}

    def attempt(self, genes: dict[str, Any], *, counted: bool = True) -> bool:
        active = [(gene, repr(genes[gene])) for gene in self.space.active(genes)]
        try:
            spec = self.space.spec(genes, self.components)
            self.check(spec)
        except SpecError as error:
            for option in active:
                self._blame(option, error)
            self.found.n_tried += counted
            return False
        self.shown_valid.update(active)
        if counted:
            self.found.n_tried += 1
            self.found.n_valid += 1
            self.found.hashes.add(spec_hash(spec))
        return True

    def _blame(self, option: tuple[str, str], error: SpecError) -> None:
        """Remember one reason against an option, by preference one that stands inside what it stands for."""
        places = self.places.get(option, frozenset())
        for problem in error.problems:
            if (problem.file, problem.line, problem.column) in places:
                self.reasons[option] = problem
                return
        self.reasons.setdefault(option, error.problems[0])

    def settle_options(self, rng: random.Random) -> None:
        """Every option that no filling has shown valid is tried again on purpose, then reported."""
        refused: set[tuple[str, str]] = set()
        for hole, value in _options(self.space):
            option = (hole.gene, repr(value))
            if option in self.shown_valid:
                continue
            if any((gene, repr(label)) in refused for gene, label in hole.requires):
                continue  # the branch around it is reported already
            wanted = {**dict(hole.requires), hole.gene: value}
            tries = 0 if self.found.tried_all else _DIRECTED
            if not any(
                self.attempt({**self.space.sample(rng), **wanted}, counted=False) for _ in range(tries)
            ):
                refused.add(option)
                self.found.problems.append(self._refusal(hole, value, self.reasons.get(option)))

    def _refusal(self, hole: Hole, value: Any, reason: Problem | None) -> Problem:
        node = hole.branch(value)
        place = node.place if node is not None else hole.place
        effort = "no filling" if self.found.tried_all else f"none of {_DIRECTED} fillings"
        hint = None
        if reason is not None:
            hint = f"for one, {reason.path + ': ' if reason.path else ''}{reason.message}"
        return Problem.at(place, f"{effort} with {shown(value)} here is valid", path=hole.gene, hint=hint)


def _options(space: Space) -> Iterator[tuple[Hole, Any]]:
    """Every option of a choice, and the ends of every range."""
    for hole in space.holes:
        ends = (hole.low, hole.high) if hole.low != hole.high else (hole.low,)
        for value in hole.options or ends:
            yield hole, value


def _places(hole: Hole, value: Any) -> frozenset[tuple[str, int, int]]:
    """Where an option and everything in it stands."""
    branch = hole.branch(value)
    nodes = [node for _, node in walk(branch)] if branch is not None else []
    places = [place for node in nodes for place in (node.place, *node.keys.values())]
    return frozenset((place.file, place.line, place.column) for place in places)
