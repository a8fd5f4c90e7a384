"""A hole: ``{choice: [...]}``, ``{int: [low, high]}`` or ``{float: [low, high]}`` in place of a value."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from archspec.errors import SpecError, shown
from archspec.nodes import Node, Place, plain

HOLE_KEYS = frozenset({"choice", "int", "float", "share"})
_BESIDE = {"choice": {"share"}, "int": {"share", "step", "log"}, "float": {"share", "log"}, "share": set()}
_NAME = re.compile(r"[A-Za-z0-9_.+*/\-]{1,60}")
_BIGGEST = 10**15


@dataclass(frozen=True)
class Hole:
    """One gene: its name is the hole's path, with the labels of the branches on its way.

    A choice has ``options``: scalars as they are, and the labels of subtrees. An int or float has ``low`` and
    ``high``, both included. ``requires`` are the choices, by gene and label, that the hole stands inside.
    """

    gene: str
    kind: Literal["choice", "int", "float"]
    place: Place
    options: tuple[Any, ...] = ()
    branches: tuple[Node, ...] = ()  # what each option stands for
    low: float = 0
    high: float = 0
    step: int | None = None
    log: bool = False
    share: str | None = None
    requires: tuple[tuple[str, Any], ...] = ()

    def branch(self, value: Any) -> Node | None:
        """What a choice's ``value`` stands for; None if it is no option."""
        for option, node in zip(self.options, self.branches, strict=True):
            if option == value and type(option) is type(value):
                return node
        return None

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one that the hole can take."""
        if self.kind == "choice":
            return self.branch(value) is not None
        if type(value) is int or (type(value) is float and self.kind == "float"):
            on_step = self.step is None or (value - self.low) % self.step == 0
            return self.low <= value <= self.high and on_step
        return False

    def sample(self, rng: random.Random) -> Any:
        """A value at random: uniform over the options, or over the range (of its logarithm)."""
        if self.kind == "choice":
            return rng.choice(self.options)
        if self.kind == "float":
            if self.log:
                drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
                return min(max(drawn, self.low), self.high)
            return rng.uniform(self.low, self.high)
        if self.log:
            return min(
                int(self.high), int(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1))))
            )
        return rng.choice(self.values)

    @property
    def values(self) -> Sequence[Any]:
        """Every value of a choice or an int."""
        assert self.kind != "float", "a float hole has no list of values"
        return self.options or range(int(self.low), int(self.high) + 1, self.step or 1)

    def same_as(self, other: Hole) -> bool:
        """Whether two holes offer the same values."""
        mine, theirs = (
            (h.kind, h.options, [plain(b) for b in h.branches], h.low, h.high, h.step, h.log)
            for h in (self, other)
        )
        return mine == theirs


def is_hole(node: Node) -> bool:
    """Whether ``node`` is written as a hole, well formed or not."""
    return not HOLE_KEYS.isdisjoint(node.entries)


def has_hole(node: Node) -> bool:
    """Whether there is a hole in ``node`` or below."""
    return is_hole(node) or any(has_hole(child) for _, child in below(node, ""))


def below(node: Node, gene: str) -> Iterator[tuple[str, Node]]:
    """The children of a node that is no hole, each with its path."""
    for key, child in node.entries.items():
        yield f"{gene}.{key}" if gene else key, child
    for index, child in enumerate(node.items):
        yield f"{gene}[{index}]", child


def parse_hole(node: Node, gene: str, requires: tuple[tuple[str, Any], ...]) -> Hole | str:
    """The hole at ``node``, or the name of the share that it refers to."""
    reader = _Reader(node, gene)
    kind = reader.kind()
    share = reader.share()
    if kind == "share":
        assert share is not None
        return share
    if kind == "choice":
        options, branches = reader.options()
        return Hole(gene, "choice", node.place, options, branches, share=share, requires=requires)
    low, high = reader.range(kind)
    step, log = reader.step(low, high), reader.log(low)
    if step is not None and log:
        raise reader.error("step", "a range has 'step' or 'log', not both")
    return Hole(
        gene, kind, node.place, low=low, high=high, step=step, log=log, share=share, requires=requires
    )


class _Reader:
    """Reads the parts of one hole; every complaint has the place of the part."""

    def __init__(self, node: Node, gene: str):
        self.node = node
        self.gene = gene

    def error(self, key: str | None, message: str, hint: str | None = None) -> SpecError:
        place = self.node.place if key is None else self.node.entries[key].place
        return SpecError.at(place, message, path=self.gene, hint=hint)

    def kind(self) -> Literal["choice", "int", "float", "share"]:
        kinds: list[Any] = [key for key in ("choice", "int", "float") if key in self.node.entries]
        if len(kinds) > 1:
            raise self.error(None, f"a hole is one of {' and '.join(kinds)}, not both")
        kind: Literal["choice", "int", "float", "share"] = kinds[0] if kinds else "share"
        for key, place in self.node.keys.items():
            if key != kind and key not in _BESIDE[kind]:
                beside = ", ".join(sorted(_BESIDE[kind])) or "nothing"
                raise SpecError.at(
                    place,
                    f"unknown field {shown(key)} in a hole",
                    path=self.gene,
                    hint=f"beside '{kind}' there may be: {beside}",
                )
        return kind

    def share(self) -> str | None:
        if "share" not in self.node.entries:
            return None
        name = self.node.entries["share"].value
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise self.error("share", f"'share' takes a name, got {shown(plain(self.node.entries['share']))}")
        return name

    def options(self) -> tuple[tuple[Any, ...], tuple[Node, ...]]:
        choice = self.node.entries["choice"]
        if not isinstance(choice.value, dict | list) or not choice.value:
            is_empty = choice.value == {} or choice.value == []
            wanted = "needs at least one option" if is_empty else "is a list or a mapping of options"
            raise self.error("choice", f"a choice {wanted}, got {shown(plain(choice))}")
        found: dict[Any, Node] = {}
        for option, branch, place in self._labelled(choice):
            if option in found:
                raise SpecError.at(
                    place,
                    f"two options of this choice are called {shown(option)}",
                    path=self.gene,
                    hint="give each a label: {choice: {first: ..., second: ...}}",
                )
            found[option] = branch
        return tuple(found), tuple(found.values())

    def _labelled(self, choice: Node) -> Iterator[tuple[Any, Node, Place]]:
        if isinstance(choice.value, dict):
            for label, branch in choice.value.items():
                if not _NAME.fullmatch(label) or label in HOLE_KEYS:
                    message = f"an option cannot be labelled {shown(label)}"
                    raise SpecError.at(
                        choice.keys[label], message, path=self.gene, hint="use letters, digits and _"
                    )
                yield label, branch, choice.keys[label]
            return
        for branch in choice.items:
            if not isinstance(branch.value, dict | list):
                if isinstance(branch.value, float) and not math.isfinite(branch.value):
                    raise SpecError.at(branch.place, "an option must be finite", path=self.gene)
                yield branch.value, branch, branch.place
                continue
            kind = branch.child("kind")
            if kind is None or not isinstance(kind.value, str) or not _NAME.fullmatch(kind.value):
                raise SpecError.at(
                    branch.place,
                    "this option needs a label, since it has no 'kind' of its own",
                    path=self.gene,
                    hint="write {choice: {label: ..., other_label: ...}}",
                )
            yield kind.value, branch, branch.place

    def range(self, kind: Literal["int", "float"]) -> tuple[float, float]:
        ends = plain(self.node.entries[kind])
        wanted = "two integers" if kind == "int" else "two numbers"
        numbers = (int,) if kind == "int" else (int, float)
        if not isinstance(ends, list) or len(ends) != 2 or any(type(end) not in numbers for end in ends):
            raise self.error(kind, f"'{kind}' takes {wanted} [low, high], got {shown(ends)}")
        low, high = ends
        if not (abs(low) <= _BIGGEST and abs(high) <= _BIGGEST):
            raise self.error(kind, f"the ends of a range must lie within {_BIGGEST:.0e}")
        if low > high:
            raise self.error(kind, f"low must be at most high, got [{shown(low)}, {shown(high)}]")
        return (low, high) if kind == "int" else (float(low), float(high))

    def step(self, low: float, high: float) -> int | None:
        if "step" not in self.node.entries:
            return None
        step = self.node.entries["step"].value
        if type(step) is not int or step < 1:
            raise self.error("step", f"'step' must be a positive integer, got {shown(step)}")
        if (high - low) % step:
            last = int(low + (high - low) // step * step)
            raise self.error(
                "step", f"[{low}, {high}] is no whole number of steps of {step}", f"end it at {last}"
            )
        return step

    def log(self, low: float) -> bool:
        log = self.node.entries["log"].value if "log" in self.node.entries else False
        if type(log) is not bool:
            raise self.error("log", f"'log' must be true or false, got {shown(log)}")
        if log and low <= 0:
            raise self.error("log", f"a logarithmic range must begin above 0, got {shown(low)}")
        return log
