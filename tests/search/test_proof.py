"""What is proved before a search: budgets out of reach, options that never fit; and what is only not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from table_study import InlineExecutor, TableEvaluator, make_study
from test_study_errors import SPACE, STUDY, changed, write

from archspec.errors import SpecError
from archspec.quantities import Budget
from search.driver import search
from search.evaluate import Candidate
from search.gates import Survey, describe, survey
from search.genome import Gene, Genome
from search.ledger import FILE_NAME, Ledger
from search.load import LoadedStudy, load_study
from search.proof import Impossible, NeverOption, Proof, pruned
from search.proposers import kinds
from search.start import make_evaluator


def locate(path: tuple[str | int, ...], message: str, hint: str | None) -> SpecError:
    return SpecError(message, path=".".join(map(str, path)), hint=hint)


def look(loaded: LoadedStudy, out: Path) -> Survey:
    evaluator = make_evaluator(loaded, loaded.study, out, n_workers=1)
    return survey(evaluator, loaded.study.budgets, seed=0, locate=loaded.error)


def loaded_with(folder: Path, budgets: str, *, space: str = SPACE) -> LoadedStudy:
    return load_study(write(folder, study=changed('{params: "<= 20k"}', budgets), space=space))


class TestSpecs:
    WIDE = changed("d_ff: 16", "d_ff: 2048", SPACE)  # the swiglu alone has about 98k parameters
    MANY = changed(
        "  - token_mixer: {choice: [none, {kind: attention, n_heads: 2}]}\n",
        "".join(
            f"  - token_mixer: {{choice: [none, {{kind: attention, n_heads: 2, window: {n}}}]}}\n"
            for n in range(2, 14)
        ),
        WIDE,
    )  # more fillings than are enumerated

    @pytest.mark.parametrize("space", [WIDE, MANY], ids=["enumerable", "large"])
    def test_an_option_that_never_fits_is_named(self, space: str, tmp_path: Path) -> None:
        seen = look(loaded_with(tmp_path, '{params: "<= 30k"}', space=space), tmp_path)
        (option,) = seen.never
        assert (option.gene, option.value, option.how) == ("layers[0].channel_mixer", "swiglu", "bounds")
        assert "params <= 30k is out of reach, at least" in option.why
        assert str(option) in describe(seen)

    def test_a_budget_below_the_bound_is_an_error_with_its_line(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="no candidate meets 'params <= 100'") as caught:
            look(loaded_with(tmp_path, '{params: "<= 100"}', space=self.MANY), tmp_path)
        (problem,) = caught.value.problems
        assert (problem.line, problem.path) == (6, "budgets.params")
        assert problem.hint == "proved by bounds over all fillings; nothing was trained"

    def test_two_sides_are_judged_apart(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"the largest candidate .* has"):
            look(loaded_with(tmp_path, '{params: ">= 5M, <= 9M"}'), tmp_path)

    def test_the_bounds_of_every_option_prove_more_than_those_of_the_space(self, tmp_path: Path) -> None:
        full = self.MANY.replace("choice: [none, {kind: att", "choice: [{kind: pool, size: 4}, {kind: att")
        free = loaded_with(
            tmp_path,
            "{}",
            space=full.replace("choice: [none, {kind: swi", "choice: [{kind: mlp, d_ff: 8}, {kind: swi"),
        )
        evaluator = make_evaluator(free, free.study, tmp_path, n_workers=1)
        from compiler.cost.asking import Asking
        from compiler.cost.space_bounds import SpaceBounds

        least = SpaceBounds(free.space, Asking(), zoo=free.zoo).ranges()["inference_peak"].least
        assert least.seen is not None
        assert least.value < least.seen, "a peak's bound lies below every member here"
        between = least.seen - 1
        budgets = {
            "inference_peak": Budget.model_validate({"quantity": "inference_peak", "text": f"<= {between}"})
        }
        with pytest.raises(SpecError, match="no candidate meets all budgets at once: every option of"):
            survey(evaluator, budgets, seed=0, locate=free.error)


class HalfBounded(TableEvaluator):
    """Proves that no mixer in the first layer but a pool fits, and has no end of fillings."""

    def size(self) -> tuple[float, bool]:
        return float("inf"), True

    def prove(self, budgets: Mapping[str, Budget]) -> Proof:
        options = ("attention", "mamba2")
        return Proof("bounds", None, tuple(NeverOption("first", o, "too large", "bounds") for o in options))


@pytest.mark.parametrize("proposer", [kind for kind in kinds() if kind != "gp"])
def test_no_sampler_proposes_what_can_never_fit(proposer: str, tmp_path: Path) -> None:
    study = make_study(proposer=proposer, trials=12, budgets={"params": "<= 900"})
    result = search(study, HalfBounded(), tmp_path, make_executor=lambda folder: InlineExecutor())
    proposed = [row for row in result.rows if row.baseline is None]
    assert len(proposed) >= 12
    assert {row.genes["first"] for row in proposed} == {"pool"}
    ledger = Ledger(tmp_path / FILE_NAME, writable=False)
    told = ledger.runs()[0]["survey"]["never"]
    ledger.close()
    assert {option["value"] for option in told} == {"attention", "mamba2"}
    assert result.survey["never"] == told


def test_enumeration_proves_options_that_no_two_budgets_leave_room_for() -> None:
    class TwoCosts(TableEvaluator):
        def candidate(self, genes: Any) -> Candidate:
            found = super().candidate(genes)
            return replace(found, costs={**found.costs, "state_bytes": 100 - 10 * genes["width"]})

    budgets = {
        "params": Budget.model_validate({"quantity": "params", "text": "<= 400"}),
        "state_bytes": Budget.model_validate({"quantity": "state_bytes", "text": "<= 60"}),
    }  # at least 4 wide, which is too much for attention; a pool 8 wide is not valid
    seen = survey(TwoCosts(), budgets, seed=0, locate=locate)
    told = {(option.gene, option.value) for option in seen.never}
    attention = {("first", "attention"), ("second", "attention")}
    assert told == {("width", 1), ("width", 2), ("width", 3), ("width", 8), *attention}
    assert {option.how for option in seen.never} == {"enumeration"}
    assert seen.proof == "enumeration"


def test_between_the_bound_and_the_least_sampled_nothing_is_proved() -> None:
    class Endless(TableEvaluator):
        def prove(self, budgets: Mapping[str, Budget]) -> Proof:
            return Proof("bounds")  # theirs lie below 39

        def size(self) -> tuple[float, bool]:
            return float("inf"), True

        def enumerate(self) -> Iterator[dict[str, Any]]:
            raise AssertionError("it has no end")

    budgets = {"params": Budget.model_validate({"quantity": "params", "text": "<= 39"})}
    seen = survey(Endless(), budgets, seed=0, locate=locate)
    assert seen.never == ()
    assert seen.n_feasible == 0
    assert "no sample meets 'params <= 39'" in seen.doubts["params"]


def test_budgets_that_only_together_rule_everything_out_are_told() -> None:
    class Torn(TableEvaluator):
        def prove(self, budgets: Mapping[str, Budget]) -> Proof:
            return Proof("bounds", Impossible("", "every option of first breaks one"))

    with pytest.raises(SpecError, match="no candidate meets all budgets at once: every option") as caught:
        survey(Torn(), {}, seed=0, locate=locate)
    assert caught.value.path == "budgets"


def test_options_are_taken_out_of_choices_and_off_the_ends_of_ranges() -> None:
    genes = (
        Gene("mixer", "choice", options=("a", "b", "c")),
        Gene("wide", "int", low=2, high=10, step=2),
        Gene("gone", "choice", options=(0, 1)),
        Gene("free", "float", low=0.0, high=1.0),
    )
    out = [("mixer", "b"), ("wide", 2), ("wide", 6), ("wide", 10), ("gone", 0), ("gone", 1)]
    left = pruned(Genome(genes), [NeverOption(gene, value, "", "bounds") for gene, value in out]).by_name
    assert left["mixer"].options == ("a", "c")
    assert (left["wide"].low, left["wide"].high) == (4, 8)
    assert left["gone"].options == (0, 1), "a gene of a branch that is out already"
    assert left["free"] == genes[3]


def test_a_hole_without_options_takes_the_branch_around_it_with_it(tmp_path: Path) -> None:
    inner = "{kind: swiglu, d_ff: {choice: [16, 4096]}}"
    wide = changed("{kind: swiglu, d_ff: 16}", inner, SPACE)
    seen = look(loaded_with(tmp_path, '{params: "<= 30k"}', space=wide), tmp_path)
    assert [(o.gene, o.value) for o in seen.never] == [("layers[0].channel_mixer<swiglu>.d_ff", 4096)]
    assert STUDY  # the study that all of these change
