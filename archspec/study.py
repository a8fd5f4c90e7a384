"""The grammar of a study: which space is searched, on which tasks, for what, within which hard budgets.

The language knows no task, recipe or proposer by name: whoever validates a study passes ``StudyKinds`` as
pydantic's validation context (``search.load.load_study`` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from archspec.closed import Closed
from archspec.components import spec_problem
from archspec.cost import Dtype, Phase
from archspec.errors import did_you_mean
from archspec.fidelity import Fidelity, ScoreBy
from archspec.proxy import ProxySlot
from archspec.quantities import Budget, find_quantity

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$")]
Scalar = bool | int | float | str


@dataclass(frozen=True)
class StudyKinds:
    """What a study may name: every task's configuration class, the proposers, and the recipe's class."""

    tasks: Mapping[str, type[Closed]]
    proposers: tuple[str, ...]
    recipe: type[Closed]


def _task(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, Closed):
        return value
    kinds = _kinds(info).tasks
    fields = {"kind": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(kind := fields.get("kind"), str):
        raise spec_problem("a task is a kind or a mapping with 'kind'", f"known here: {_listed(kinds)}")
    if kind not in kinds:
        raise spec_problem(f"unknown task '{kind}'", did_you_mean(kind, kinds))
    return kinds[kind].model_validate(dict(fields), context=info.context)


def _recipe(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, Closed):
        return value
    return _kinds(info).recipe.model_validate(value, context=info.context)


def _proposer(value: str, info: ValidationInfo) -> str:
    known = _kinds(info).proposers
    if value not in known:
        raise spec_problem(f"unknown proposer '{value}'", did_you_mean(value, known))
    return value


def _quantity(name: str) -> str:
    find_quantity(name)
    return name


def _budgets(value: Any) -> Any:
    """``{params: "<= 300k"}`` -> one ``Budget`` per quantity, each with an error of its own."""
    if not isinstance(value, Mapping):
        return value
    return {
        name: text if isinstance(text, Budget) else {"quantity": name, "text": text}
        for name, text in value.items()
    }


def _kinds(info: ValidationInfo) -> StudyKinds:
    if not isinstance(info.context, StudyKinds):  # our own mistake; pydantic would swallow an assertion
        raise TypeError("a study is validated with StudyKinds as its context")
    return info.context


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"


_KIND = {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}
TaskSlot = Annotated[
    SerializeAsAny[Closed],
    BeforeValidator(_task),
    WithJsonSchema({"anyOf": [{"type": "string"}, _KIND]}),
]
RecipeSlot = Annotated[SerializeAsAny[Closed], BeforeValidator(_recipe), WithJsonSchema({"type": "object"})]
BudgetSlot = Annotated[Budget, WithJsonSchema({"type": "string", "pattern": "^(<=|>=)"})]
QuantityName = Annotated[str, AfterValidator(_quantity)]


class Target(Closed):
    """Where and how candidates will run: what latency and memory are budgeted for."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA if present, else CPU")
    phase: Phase = "prefill"
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 1
    seq_len: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        None, description="by default the length of the space's input"
    )
    dtype: Dtype = "float32"
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="CPU threads of a measurement; one is the steadiest"
    )
    latency_table: str | None = Field(
        None,
        description="path of a table of 'archspec device calibrate'; what it predicts too slow is refused",
    )


def parse_memory(value: str | int, *, total: int) -> int:
    """``"4 GiB"``, ``"50%"`` of ``total`` or a number of bytes -> bytes."""
    text = str(value).strip()
    if text.endswith("%"):
        try:
            share = float(text[:-1])
        except ValueError:
            share = 0.0
        if not 0 < share <= 100:
            raise spec_problem(f"a share of memory is between 0% and 100%, got {text!r}")
        return int(total * share / 100)
    return int(Budget.model_validate({"quantity": "inference_peak", "text": f"<= {text}"}).value)


class Limits(Closed):
    """What one training may use before it is stopped and recorded as failed."""

    training_s: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="wall-clock seconds of one training"
    )
    memory: str | int = Field(
        "80%", description="resident memory of one worker: '4 GiB', or a share of the machine's"
    )

    @field_validator("memory")
    @classmethod
    def _readable(cls, value: str | int) -> str | int:
        parse_memory(value, total=1 << 34)
        return value


class WarmStart(Closed):
    """What is tried before anything is proposed, within the budgets."""

    specs: Annotated[tuple[str, ...], Field(max_length=100)] = Field(
        (), description="paths of specs; where the space holds one, proposers learn from it"
    )
    ledgers: bool = Field(True, description="candidates that the searches in 'reuse' have finished")


class Study(Closed):
    """A whole study. Paths in it are relative to its file."""

    archspec: Literal[1] = Field(description="version of the language")
    study: Name
    description: Annotated[str, Field(max_length=2_000)] = ""
    space: Annotated[str, Field(min_length=1)] = Field(
        description="path of the search space (a spec with holes)"
    )
    tasks: Annotated[tuple[TaskSlot, ...], Field(min_length=1, max_length=20)]
    objectives: Annotated[
        dict[QuantityName, Literal["maximize", "minimize"]], Field(min_length=1, max_length=3)
    ] = Field(description="one to three quantities, the most important first")
    budgets: Annotated[dict[str, BudgetSlot], BeforeValidator(_budgets)] = Field(
        default_factory=dict, description="hard limits: params: '<= 300k', inference_peak: '<= 256 MiB'"
    )
    target: Target = Target()
    recipe: RecipeSlot = Field(default_factory=dict, validate_default=True)
    proxy: ProxySlot = Field(
        "none", description="a smaller twin whose score stands for the candidate's: {shrink: {d_model: 1/8}}"
    )
    aggregate: Literal["mean", "min"] = Field(
        "mean",
        description="how 'score' is made of the tasks' scores; mean is weighted by each task's 'weight'",
    )
    proposer: Annotated[str, AfterValidator(_proposer)] = Field("predictor", validate_default=True)
    trials: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        64, description="candidates to train, baselines and refusals not counted"
    )
    batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="candidates proposed, measured and trained together"
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    seeds: Annotated[int, Field(ge=1, le=100)] = Field(1, description="trainings of each candidate and task")
    fidelity: Fidelity = Fidelity()
    score_by: ScoreBy = Field(
        "final",
        description="what a training's score is: the last one, the mean over its steps (area), or the share "
        "of the steps that is left when it reaches {steps_to: 0.9}, 0 if it never does",
    )
    baselines: dict[Name, str | dict[str, Scalar]] = Field(
        default_factory=dict,
        description="trained alike and marked: a spec's path, or genes (the others take their first value)",
    )
    search_baselines: tuple[Literal["random"], ...] = Field(
        (), description="random: after the search, as many candidates drawn at random within the budgets"
    )
    reuse: Annotated[tuple[str, ...], Field(max_length=100)] = Field(
        (), description="result folders of earlier searches, whose results with equal keys are taken over"
    )
    warm_start: WarmStart = WarmStart()
    limits: Limits = Limits()

    @field_validator("fidelity")
    @classmethod
    def _rungs_go_up(cls, fidelity: Fidelity, info: ValidationInfo) -> Fidelity:
        if "seeds" in info.data:
            fidelity.check_seeds(info.data["seeds"])
        return fidelity

    @model_validator(mode="after")
    def _rungs_tell_something(self) -> Study:
        learned = [n for n in (*self.objectives, *self.budgets) if n.partition(".")[0] in ("score", "loss")]
        if self.fidelity.is_ladder and not learned:
            raise spec_problem(
                "fidelity: rungs rank what training gives, but no objective or budget is a score or a loss"
            )
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each task: its kind, numbered from the second of a kind on."""
        seen: dict[str, int] = {}
        labels = []
        for task in self.tasks:
            kind = str(task.kind)  # type: ignore[attr-defined]
            seen[kind] = seen.get(kind, 0) + 1
            labels.append(kind if seen[kind] == 1 else f"{kind}_{seen[kind]}")
        return tuple(labels)

    @model_validator(mode="after")
    def _labels_known(self) -> Study:
        for where, names in (("objectives", self.objectives), ("budgets", self.budgets)):
            for name in names:
                _, _, label = name.partition(".")
                if label and label not in self.labels:
                    raise spec_problem(
                        f"{where}: '{name}': no task '{label}'", f"tasks here: {', '.join(self.labels)}"
                    )
        return self

    @model_validator(mode="after")
    def _something_to_gain(self) -> Study:
        for name, direction in self.objectives.items():
            wanted = find_quantity(name).better
            if direction != wanted:
                sense = "larger" if wanted == "maximize" else "smaller"
                raise spec_problem(f"objectives: '{name}: {direction}': {name} is better when {sense}")
            budget = self.budgets.get(name)
            if budget is not None and budget.limit("<=") == budget.limit(">=") is not None:
                raise spec_problem(f"objectives: '{name}' is fixed by its budget '{budget.text}'")
        return self
