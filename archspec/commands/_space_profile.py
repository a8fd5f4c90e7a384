"""What the members of a search space cost, and which budgets none can keep; for a study, its own budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from archspec.cost import Dtype, Phase
from archspec.errors import Problem, SpecError, did_you_mean, printable
from archspec.quantities import Budget, show
from archspec.source import Source
from archspec.space import Space

if TYPE_CHECKING:
    from compiler.cost.asking import Asking
    from compiler.cost.space_bounds import End, Range, Verdict

_SURE = {"exact": "", "bound": " (bound)", "seen": " (seen)"}
_MOST_OPTIONS = 12  # shown for one budget


@dataclass(frozen=True)
class SpaceProfile:
    """Ranges of all closed-form costs, and a verdict on every budget."""

    name: str
    fillings: tuple[float, bool]
    asking: Asking
    ranges: Mapping[str, Range]
    verdicts: tuple[Verdict, ...]
    assumed: tuple[str, ...]

    @property
    def feasible(self) -> bool:
        """False if some budget can never be kept."""
        return all(verdict.answer != "never" for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        """The stable keys of ``profile SPACE --json``."""
        n, is_exact = self.fillings
        return {
            "name": self.name,
            "fillings": None if n == float("inf") else int(n),
            "fillings_exact": is_exact,
            **asdict(self.asking),
            "ranges": {name: found.as_json() for name, found in self.ranges.items()},
            "budgets": [verdict.as_json() for verdict in self.verdicts],
            "feasible": self.feasible,
            "assumed_monotone": list(self.assumed),
        }

    def render(self) -> RenderableType:
        """Two tables; a figure that is no more than a bound says so."""
        asking = self.asking
        length = "its own length" if asking.seq_len is None else f"{asking.seq_len} positions"
        title = f"{self.name}: {length}, batch {asking.batch_size}, {asking.dtype}, phase {asking.phase}"
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in ("cost", "least", "most", "least by", "most by"):
            table.add_column(heading, justify="right" if heading in ("least", "most") else "left")
        for name, found in self.ranges.items():
            table.add_row(
                name, _shown(name, found.least), _shown(name, found.most),
                Text(printable(found.least.by)), Text(printable(found.most.by)),
            )  # fmt: skip
        notes = [Text(_SENTENCE, style="dim")]
        if self.assumed:
            text = (
                f"only the ends were looked at of: {', '.join(self.assumed)}; costs are taken to lie between"
            )
            notes.append(Text(printable(text), style="yellow"))
        budgets = [line for verdict in self.verdicts for line in _judged(verdict)]
        return Group(Text(title, style="bold"), table, *notes, *budgets)


_SENTENCE = (
    "no mark: some member has exactly this and none passes it; (bound): none passes it, though perhaps none "
    "has it; (seen): the greatest among those looked at"
)


def space_profile(
    source: Source, asking: Asking, budgets: Sequence[Budget], plugins: tuple[str, ...]
) -> SpaceProfile:
    """The profile of a space."""
    from compiler.cost.space_bounds import SpaceBounds
    from zoo import load_zoo

    space = Space(source)
    bounds = SpaceBounds(space, asking, zoo=load_zoo(plugins))
    ranges = bounds.ranges()
    verdicts = tuple(bounds.verdict(budget, ranges) for budget in budgets)
    name = source.tree.get("name", "space")
    assumed = tuple(sorted(bounds.parts.assumed))
    return SpaceProfile(str(name), space.count(), asking, ranges, verdicts, assumed)


def study_profile(source: Source, budgets: Sequence[Budget], plugins: tuple[str, ...]) -> SpaceProfile:
    """The profile of a study's space on the study's target, with the study's budgets."""
    from compiler.cost.asking import Asking
    from search.load import load_study

    loaded = load_study(source, plugins=plugins)
    target = loaded.study.target
    asking = Asking(target.batch_size, target.seq_len, target.dtype, target.phase)
    all_budgets = [*loaded.study.budgets.values(), *budgets]
    return space_profile(loaded.space.source, asking, all_budgets, plugins)


def asking(*, batch_size: int, seq_len: int | None, dtype: str, phase: str) -> Asking:
    """What was asked on the command line; SpecError for what is unknown."""
    from compiler.cost.asking import Asking

    problems = [
        Problem(f"unknown {what} '{value}'", hint=did_you_mean(value, known))
        for what, value, known in (("dtype", dtype, get_args(Dtype)), ("phase", phase, get_args(Phase)))
        if value not in known
    ]
    if batch_size < 1:
        problems.append(Problem(f"batch_size {batch_size} is not at least 1"))
    if seq_len is not None and seq_len < 1:
        problems.append(Problem(f"seq_len {seq_len} is not at least 1"))
    if problems:
        raise SpecError(problems=problems)
    return Asking(batch_size, seq_len, cast(Dtype, dtype), cast(Phase, phase))


def read_budget(text: str) -> Budget:
    """``params<=300k`` as a budget."""
    for op in ("<=", ">="):
        name, found, limit = text.partition(op)
        if found:
            try:
                return Budget.model_validate({"quantity": name.strip(), "text": f"{op} {limit.strip()}"})
            except ValidationError as error:
                first = error.errors()[0]
                context = first.get("ctx", {})
                raise SpecError(
                    f"--budget {text}: {context.get('message', first['msg'])}", hint=context.get("hint")
                ) from None
    raise SpecError(f"--budget {text}: a budget is QUANTITY<=NUMBER or QUANTITY>=NUMBER")


def _shown(name: str, end: End) -> str:
    return f"{show(name, end.value)}{_SURE[end.sure]}"


def _judged(verdict: Verdict) -> list[Text]:
    """A line for the verdict, and one for the options that rule the budget out."""
    budget, end = verdict.budget, verdict.end
    if end is None:
        return [Text(printable(f"{budget}: not a closed form, so it is judged when candidates are measured"))]
    what = f"the {'least' if budget.op == '<=' else 'most'} is {_shown(budget.quantity, end)}"
    if verdict.answer == "never":
        head = Text(
            printable(f"{budget}: no member can keep it: {what}; nearest: {end.by}"), style="bold red"
        )
    elif verdict.answer == "possible":
        head = Text(
            printable(f"{budget}: can be kept: {end.by} has {show(budget.quantity, end.seen or 0)}"), "green"
        )
    else:
        head = Text(
            printable(f"{budget}: not decided: {what}, and no member is known that keeps it"), "yellow"
        )
    options = [
        f"{gene}={value} (at {'least' if budget.op == '<=' else 'most'} {show(budget.quantity, figure)})"
        for gene, value, figure in verdict.never_with
    ]
    if not options:
        return [head]
    more = f", and {len(options) - _MOST_OPTIONS} more" if len(options) > _MOST_OPTIONS else ""
    return [head, Text(printable(f"  never with {', '.join(options[:_MOST_OPTIONS])}{more}"))]
