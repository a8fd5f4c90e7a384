"""What a search found, as plain frozen data: all that a report, a table or another program needs.

``search.run`` returns a ``SearchResult``; ``search.solve.load_result(DIR)`` derives the same from a result
folder, finished or not. Nothing here needs torch. Mappings and tuples are in the order to be shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from search.proxy_validity import ProxyValidity

Status = Literal["done", "dropped", "refused", "failed", "duplicate"]
Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Interval:
    """A measured figure: the median, the interval that holds it, and how it was obtained."""

    value: float
    low: float
    high: float
    n: int  # repeated runs behind it
    source: str  # "measured"
    tier: str = "eager"  # the kernel tier


@dataclass(frozen=True)
class Objective:
    """One quantity that the search improves. ``ideal`` and ``reference`` span the box of the hypervolume."""

    quantity: str  # "score", "latency_ms", "score.copy", "params", ...
    direction: Direction
    unit: str  # "", "ms", "B", ...
    ideal: float
    reference: float

    @property
    def sign(self) -> int:
        """+1 where smaller is better, -1 where larger is."""
        return 1 if self.direction == "minimize" else -1

    def share(self, value: float) -> float:
        """Where ``value`` is in the box: 0 at the ideal, 1 at the reference, more beyond it."""
        span = abs(self.reference - self.ideal)
        away = self.sign * (value - self.ideal)
        return away / span if span > 0 else float(away > 0)


@dataclass(frozen=True)
class Limit:
    """One hard budget as the study states it, and how many candidates it turned away."""

    quantity: str
    op: Literal["<=", ">="]
    value: float
    unit: str
    text: str  # "<= 256 MiB", as written
    closed_form: bool  # checked before training
    n_refused: int = 0


@dataclass(frozen=True)
class TaskInfo:
    """One task of the study: the label that rows use, and what it was."""

    label: str  # key of Row.scores; the kind, numbered where a kind occurs twice
    kind: str
    metric: str  # name of the metric that the score is made of, "" where the task names none
    record: Mapping[str, Any]  # the task's own record: settings, sha256 of the data
    weight: float = 1.0  # in the weighted mean


@dataclass(frozen=True)
class TextBaseline:
    """A text compressor or n-gram model on the same split as the models, to be shown beside them."""

    task: str  # TaskInfo.label
    name: str  # "xz", "5-gram"
    split: str
    bits_per_byte: float


@dataclass(frozen=True)
class Row:
    """One trial: what was proposed, what became of it and why.

    ``status`` is ``done`` (trained and measured), ``refused`` (turned away before training), ``failed``
    (its worker died, training diverged or timed out) or ``duplicate`` (the same architecture as an earlier
    trial: ``reason`` names it). Only ``done`` rows have objectives. ``strip`` draws the architecture: one
    (token mixer, channel mixer) pair of kinds per layer from the stem to the head; ``none`` in an empty slot.
    """

    trial: int
    hash: str  # 64 hex; "" where the genes do not make a spec
    name: str  # a file-name stem: the baseline's name, or the first 12 of the hash
    status: Status
    reason: str = ""
    baseline: str | None = None  # its name in the study's ``baselines``
    genes: Mapping[str, Any] = field(default_factory=dict)
    strip: tuple[tuple[str, str], ...] = ()
    objectives: Mapping[str, float] = field(default_factory=dict)  # by Objective.quantity
    costs: Mapping[str, float] = field(
        default_factory=dict
    )  # closed form: params, flops, inference_peak, ...
    scores: Mapping[str, float] = field(default_factory=dict)  # validation, by TaskInfo.label
    score_spread: Mapping[str, float] = field(default_factory=dict)  # max - min over seeds, by label
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # validation, by label
    test_scores: Mapping[str, float] = field(default_factory=dict)  # sealed test; front and baselines only
    test_metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latency: Interval | None = None
    feasible: bool = False  # done, and within every budget
    violations: tuple[str, ...] = ()  # "latency_ms 7.31 is not <= 6"
    rank: int | None = None  # non-dominated rank among the feasible; 0 is the front
    on_front: bool = False
    hybrid: bool = False  # more than one kind of token mixer
    seconds: float = 0.0  # training time, all tasks and seeds
    rung: str = "full"  # how far it was trained; ``scores`` are from there
    cost: float = 1.0  # of that, in whole trainings
    spec_file: str | None = None  # "front/<name>.yaml" in the result folder, for members and baselines
    causality: Literal["passed", "failed", "untested"] = (
        "untested"  # perturbation gate on the trained weights
    )

    @property
    def short(self) -> str:
        """The hash as people see it."""
        return self.hash[:12]


@dataclass(frozen=True)
class HypervolumePoint:
    """The front's hypervolume after so much training; 1 is the whole box, reference to ideal."""

    n_trained: float  # in whole trainings
    trial: int
    seconds: float  # training time spent until then
    value: float


@dataclass(frozen=True)
class Verdict:
    """Whether the search beat its baselines, in numbers and in one sentence."""

    sentence: str
    best: int | None  # trial with the best first objective among the feasible
    best_baseline: int | None  # the same among the baselines, feasible or not
    best_hybrid: int | None
    beats_every_baseline: bool  # the best hybrid is strictly better than each baseline in the first objective
    hypervolume: float
    hypervolume_baselines: float  # of the feasible baselines alone


@dataclass(frozen=True)
class SearchResult:
    """A whole search: rows in the order of trials, and what is needed to read them."""

    study: str
    description: str
    objectives: tuple[Objective, ...]  # one to three
    budgets: tuple[Limit, ...]
    tasks: tuple[TaskInfo, ...]
    aggregate: str  # "mean" (weighted by the tasks' weights) or "min": how ``score`` is made
    target: Mapping[str, Any]  # device, phase, batch_size, seq_len, dtype, threads
    rows: tuple[Row, ...]
    hypervolume: tuple[HypervolumePoint, ...]
    text_baselines: tuple[TextBaseline, ...]
    verdict: Verdict
    refusals: Mapping[str, int]  # reason code -> count: a budget's quantity, "misfit" or "invalid"
    failures: Mapping[str, int]  # reason -> count
    fronts_by_aggregate: Mapping[str, tuple[int, ...]]  # "mean" | "min" -> trials on the front under it
    space_size: tuple[int | None, bool]  # fillings (None: a continuous gene); exact, or at most
    seed: int
    complete: bool  # False: interrupted; ``stopped`` says why
    stopped: str  # "40 candidates trained", "space exhausted", "time limit", "interrupted"
    provenance: Mapping[str, Any]  # versions, device, seeds, data hashes, study and space text, command
    proxy: ProxyValidity | None = None  # what the audit says of the lower rungs, where there are any

    @property
    def front(self) -> tuple[Row, ...]:
        """Members of the front, best first objective first."""
        first = self.objectives[0]
        rows = [row for row in self.rows if row.on_front]
        return tuple(sorted(rows, key=lambda row: (first.sign * row.objectives[first.quantity], row.trial)))

    @property
    def baselines(self) -> tuple[Row, ...]:
        """The study's baselines, trained or not."""
        return tuple(row for row in self.rows if row.baseline is not None)

    @property
    def trained(self) -> tuple[Row, ...]:
        """Rows with objectives, baselines included."""
        return tuple(row for row in self.rows if row.status == "done")

    def row(self, trial: int) -> Row:
        """The row of a trial."""
        return next(row for row in self.rows if row.trial == trial)
