"""What an earlier search knows costs nothing again; what it found comes first; no budget is passed over."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from table_study import InlineExecutor, TableEvaluator, make_study
from test_study_errors import SPACE, STUDY, all_pool, write

from archspec.errors import SpecError
from archspec.identity import spec_hash
from search.candidates import SpecEvaluator
from search.driver import search
from search.evaluate import Candidate, Need
from search.executors import Completion, Job
from search.front import SearchResult
from search.inversion import genes_of
from search.ledger import FILE_NAME, Ledger
from search.load import load_study
from search.trainings import Place

Break = Callable[[Job], Completion | None]


class WithFolders(TableEvaluator):
    """Trainings leave weights in a folder of the search."""

    def __init__(self, out: Path, **more: Any):
        super().__init__(**more)
        self._out = out

    def _need(self, kind: Any, do: str, candidate: Candidate, label: str) -> Need:
        need = super()._need(kind, do, candidate, label)
        directory = str(self._out / "weights" / candidate.hash[:12] / label)
        return replace(need, job=replace(need.job, payload={**need.job.payload, "directory": directory}))


class SavingExecutor(InlineExecutor):
    def submit(self, job: Job) -> None:
        super().submit(job)
        if job.do == "train":
            (Path(job.payload["directory"]) / "model").mkdir(parents=True)
        if job.do == "final":
            assert (Path(job.payload["directory"]) / "model").is_dir(), "the weights are not there"


def run(
    out: Path, *earlier: Path, break_: Break = lambda job: None, **changes: Any
) -> tuple[SearchResult, SavingExecutor]:
    executor = SavingExecutor(break_=break_)
    result = search(
        make_study(**{"budgets": {}, **changes}),
        WithFolders(out),
        out,
        make_executor=lambda folder: executor,
        reuse=earlier,
    )
    return result, executor


def trained(executor: InlineExecutor) -> set[str]:
    return {Path(job.payload["directory"]).parts[-2] for job in executor.jobs if job.do == "train"}


def test_what_an_earlier_search_trained_is_not_trained_again_and_does_not_count(tmp_path: Path) -> None:
    _, first = run(tmp_path / "one", trials=12)
    result, second = run(tmp_path / "two", tmp_path / "one", trials=8, seed=1)
    assert len(trained(first)) == 13
    assert not trained(first) & trained(second)
    assert len(trained(second)) == 8, "eight of its own"
    done = [row for row in result.rows if row.status == "done"]
    assert len(done) == 8 + 13, "and all of the earlier search's beside them"
    ledger = Ledger(tmp_path / "two" / FILE_NAME, writable=False)
    sources = [document.get("reused_from") for _, document in ledger.all_evidence("training")]
    ledger.close()
    assert sources.count(str(tmp_path / "one")) == 2 * 13
    assert sources.count(None) == 2 * 8


def test_finished_candidates_come_before_any_proposal(tmp_path: Path) -> None:
    run(tmp_path / "one", trials=6)
    run(tmp_path / "two", tmp_path / "one", trials=4, seed=1)
    ledger = Ledger(tmp_path / "two" / FILE_NAME, writable=False)
    proposers = [trial.document["proposer"] for trial in ledger.trials() if trial.status == "done"]
    ledger.close()
    assert proposers[:7] == ["baseline", *["earlier search"] * 6]
    assert set(proposers[7:]) == {"random"}


def test_an_earlier_candidate_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "one", trials=20)
    result, _ = run(tmp_path / "two", tmp_path / "one", trials=4, seed=1, budgets={"params": "<= 400"})
    done = [row for row in result.rows if row.status == "done" and row.baseline is None]
    assert done
    assert all(row.costs["params"] <= 400 for row in done)


def test_without_warm_start_the_earlier_search_only_answers(tmp_path: Path) -> None:
    run(tmp_path / "one", trials=30)
    _, executor = run(tmp_path / "two", tmp_path / "one", trials=4, seed=1, warm_start={"ledgers": False})
    assert len(trained(executor)) == 4


@pytest.mark.parametrize("are_gone", [False, True])
def test_weights_are_read_where_they_are_and_made_again_where_they_are_gone(
    are_gone: bool, tmp_path: Path
) -> None:
    def no_checks(job: Job) -> Completion | None:
        return Completion(job, "error", reason="not today") if job.do == "final" else None

    run(tmp_path / "one", trials=6, break_=no_checks)
    if are_gone:
        shutil.rmtree(tmp_path / "one" / "weights")
    result, executor = run(tmp_path / "two", tmp_path / "one", trials=1, seed=1)
    checks = [Path(job.payload["directory"]) for job in executor.jobs if job.do == "final"]
    where = {directory.parts[-2]: directory.parents[2].name for directory in checks}
    reused = {row.short for row in result.rows if row.status == "done" and where.get(row.short) == "one"}
    assert bool(reused) is not are_gone
    assert len(trained(executor)) > 1 if are_gone else len(trained(executor)) == 1
    assert all(row.causality == "passed" for row in result.front)


def test_a_search_is_not_reused_in_itself_nor_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be reused in itself"):
        run(tmp_path / "one", tmp_path / "one")
    with pytest.raises(SpecError, match="holds no search"):
        run(tmp_path / "one", tmp_path / "nothing")


def test_going_on_asks_nothing_twice(tmp_path: Path) -> None:
    run(tmp_path / "one", trials=6)
    before, _ = run(tmp_path / "two", tmp_path / "one", trials=3, seed=1)
    after, executor = run(tmp_path / "two", tmp_path / "one", trials=3, seed=1)
    assert executor.jobs == []
    assert len(after.rows) == len(before.rows)


class TestSpecs:
    def evaluator(self, folder: Path, study: str = STUDY) -> SpecEvaluator:
        loaded = load_study(write(folder, study=study))
        return SpecEvaluator(loaded, Place("cpu", folder, 1, None))

    def test_a_spec_s_genes_are_found_in_the_space(self, tmp_path: Path) -> None:
        loaded = load_study(write(tmp_path))
        for genes in loaded.space.enumerate():
            spec = loaded.space.spec(genes, loaded.zoo.components)
            found = genes_of(spec, loaded.space, loaded.zoo.components)
            assert found is not None
            assert spec_hash(loaded.space.spec(found, loaded.zoo.components)) == spec_hash(spec)

    def test_in_a_space_of_patterns_too(self, tmp_path: Path) -> None:
        loaded = load_study(Path(__file__).parents[2] / "specs/studies/stdlib_causal.yaml")
        rng = random.Random(3)
        for _ in range(4):
            spec = loaded.space.spec(loaded.space.sample(rng), loaded.zoo.components)
            found = genes_of(spec, loaded.space, loaded.zoo.components)
            assert found is not None
            assert spec_hash(loaded.space.spec(found, loaded.zoo.components)) == spec_hash(spec)

    def test_a_warm_start_is_a_candidate_with_its_genes_or_without(self, tmp_path: Path) -> None:
        inside = SPACE.replace(
            "{choice: [{kind: attention, n_heads: 2}, {kind: mamba2, d_state: 8, d_head: 8}]}",
            "{kind: attention, n_heads: 2}",
        )
        inside = inside.replace("{choice: [none, {kind: swiglu, d_ff: 16}]}", "{kind: swiglu, d_ff: 16}")
        inside = inside.replace("{choice: [none, {kind: attention, n_heads: 2}]}", "none")
        (tmp_path / "inside.yaml").write_text(inside)
        (tmp_path / "outside.yaml").write_text(all_pool(vocab_size=32))
        study = STUDY + "warm_start: {specs: [inside.yaml, outside.yaml]}\n"
        one, other = self.evaluator(tmp_path, study).warm()
        assert one.genes == {
            "layers[0].token_mixer": "attention",
            "layers[0].channel_mixer": "swiglu",
            "layers[1].token_mixer": "none",
        }
        assert other.genes == {}

    @pytest.mark.parametrize(
        ("line", "path", "message"),
        [
            ("warm_start: {specs: [gone.yaml]}", "warm_start.specs[0]", "no such file: 'gone.yaml'"),
            ("reuse: [gone]", "reuse[0]", "'gone' holds no search"),
        ],
    )
    def test_what_is_not_there_is_told_with_its_place(
        self, line: str, path: str, message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(SpecError, match=message) as caught:
            load_study(write(tmp_path, study=STUDY + line + "\n"))
        assert (caught.value.path, caught.value.problems[0].line) == (path, 13)

    def test_a_warm_start_that_does_not_fit_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "small.yaml").write_text(all_pool(vocab_size=4))
        evaluator = self.evaluator(tmp_path, STUDY + "warm_start: {specs: [small.yaml]}\n")
        with pytest.raises(SpecError, match=r"input\.vocab_size is 4") as caught:
            evaluator.warm()
        assert caught.value.path == "warm_start.specs[0]"


def test_what_the_pattern_space_finds_is_a_member_of_the_space_of_edits() -> None:
    studies = Path(__file__).parents[2] / "specs/studies"
    first, second = load_study(studies / "patterns.yaml"), load_study(studies / "pattern_edits.yaml")
    genes = {hole.gene: hole.values[0] for hole in first.space.holes}
    genes |= {
        "layers[1].repeat": 3,
        "layers[1].layers[0].token_mixer": "negative",
        "layers[2].token_mixer": "mamba2",
    }
    spec = first.space.spec(genes, first.zoo.components)
    found = genes_of(spec, second.space, second.zoo.components)
    assert found is not None
    assert [found[f"layers[{i}]"] for i in range(2, 8)].count("present") == 2, "three layers in all"
