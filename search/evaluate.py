"""The interface between the driver and the evidence: what a candidate is, what it costs, which jobs it takes.

``search.candidates.SpecEvaluator`` compiles and trains specs; a table of finished results with a genome of
its own is another evaluator. A job's result is a JSON document of one of three forms:

- training: ``{"status": "done" | "diverged" | ..., "score", "loss", "metrics": {name: number}, "seconds",
"reason"}`` - measurement: ``{"figures": {quantity: {"value", "low", "high", "n"}}, "tier"}``, or of a
latency alone ``{"median_ms", "low_ms", "high_ms", "n", "tier"}`` - final check: ``{"score",
"metrics", "causality": "passed" | "failed" | "untested", "reason"}``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from archspec.errors import SpecError
from archspec.quantities import Budget, show
from search.executors import Job
from search.front import TaskInfo, TextBaseline
from search.genome import Genes, Genome
from search.ledger import EvidenceKey

Locate = Callable[[tuple[str | int, ...], str, str | None], SpecError]  # place in the study, message, hint


@dataclass(frozen=True)
class Predicted:
    """A figure that nobody measured yet, and the interval that is meant to hold it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """An architecture that could be built. ``costs`` are its closed-form quantities by name.

    ``features`` are numbers that tell architectures apart better than genes and layers do, where the
    evaluator knows such; a regression then sees these and the costs.
    """

    hash: str
    genes: Genes
    strip: tuple[tuple[str, str], ...]
    costs: Mapping[str, float]
    payload: Mapping[str, Any]  # JSON: what a worker needs to build it
    baseline: str | None = None
    active: frozenset[str] | None = None  # the genes that shape it; None: not known
    predicted: Mapping[str, Predicted] = field(default_factory=dict)  # measured quantities, before they are
    features: Mapping[str, float] | None = None


class Unfit(Exception):
    """These genes make no candidate: ``code`` is one word to count by, ``reason`` is for people."""

    def __init__(self, code: str, reason: str, *, hash: str = ""):
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.hash = hash


@dataclass(frozen=True)
class Need:
    """One result that a candidate needs: where it is kept, and the job that makes it if nobody has."""

    key: EvidenceKey
    job: Job
    label: str = ""  # the task's

    @property
    def run(self) -> str:
        """The training that this is a stretch of: what goes on from rung to rung shares one."""
        return str(self.job.payload.get("directory", self.key))


@dataclass(frozen=True)
class Identity:
    """What may not change in one result folder, as texts to compare, and what to say if it does."""

    values: Mapping[str, str]
    explain: Mapping[str, str] = field(default_factory=dict)


class Evaluator(Protocol):
    """Genes -> candidate -> jobs. Everything here is quick; only jobs take time."""

    genome: Genome
    tasks: tuple[TaskInfo, ...]

    def size(self) -> tuple[float, bool]:
        """How many fillings the space has, and whether that is exact."""

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Every filling, where ``size`` is exact and the space holds no continuous gene."""

    def candidate(self, genes: Genes) -> Candidate:
        """The candidate that ``genes`` make; ``Unfit`` if there is none."""

    def baselines(self) -> list[Candidate]:
        """The study's baselines, in its order."""

    def training(self, candidate: Candidate) -> list[Need]:
        """What has to be trained: every task with every seed."""

    def measurement(self, candidate: Candidate, *, final: bool) -> Need | None:
        """What has to be measured on the target; None if the study asks for no measured figure."""

    def final(self, candidate: Candidate) -> list[Need]:
        """What the front's members and the baselines go through at the end: sealed test, causality."""

    def text_baselines(self) -> tuple[TextBaseline, ...]:
        """What compressors and n-gram models reach on the tasks' texts. May take seconds."""

    def dump(self, candidate: Candidate, *, comment: str) -> str:
        """The candidate as a file for people."""

    def identity(self) -> Identity:
        """What may not change in one result folder."""

    def provenance(self) -> dict[str, Any]:
        """Versions, device, data: JSON."""


@runtime_checkable
class RungEvaluator(Evaluator, Protocol):
    """An evaluator whose candidates can stop at a rung of the study's ladder and go on from there."""

    def rung(self, candidate: Candidate, index: int) -> list[Need]:
        """What has to be trained at rung ``index``; at the top what ``training`` says."""

    def discard(self, candidate: Candidate) -> None:
        """The candidate goes no further: its weights and checkpoints may be deleted."""


@runtime_checkable
class WarmStarted(Protocol):
    """An evaluator that knows candidates to try first."""

    def warm(self) -> list[Candidate]:
        """Them, in order; without genes where the space does not hold one."""


def violations(budgets: Mapping[str, Budget], quantities: Mapping[str, float]) -> tuple[str, ...]:
    """In words, the budgets that ``quantities`` do not keep; what is not known yet is let through."""
    return tuple(
        f"{name} {show(name, quantities[name])} is not {budget.text or f'{budget.op} {budget.value:g}'}"
        for name, budget in budgets.items()
        if name in quantities and not budget.allows(quantities[name])
    )
