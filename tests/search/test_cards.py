"""Cards: the fewest edits, effects that are true, and no score that nobody measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archspec import ModelSpec
from archspec.dump import dump_spec
from archspec.identity import spec_hash
from search.cards import cards
from search.costing import Costing
from search.front import Objective, Row, SearchResult, Verdict
from search.layer_edits import edited, edits, flat, layer_words
from search.layers import layer_pairs
from search.report.card_words import card_words
from zoo import load_zoo

words = st.lists(st.sampled_from("abc"), max_size=7)
ATTENTION = {"token_mixer": {"kind": "attention", "n_heads": 2}}
MAMBA = {"token_mixer": {"kind": "mamba2", "d_state": 8, "d_head": 8}}


@settings(max_examples=150, deadline=None)
@given(first=words, second=words)
def test_edits_lead_from_one_to_the_other_and_are_the_fewest(first: list[str], second: list[str]) -> None:
    found = edits(first, second)
    left = list(first)
    for edit in reversed(found):  # from the end, so that places stay right
        left[edit.at : edit.at + (edit.what != "add")] = [] if edit.other is None else [second[edit.other]]
    assert left == second

    def distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        swap = distance(a[1:], b[1:]) + (a[0] != b[0])
        return min(swap, swap if a[0] == b[0] else min(distance(a[1:], b), distance(a, b[1:])) + 1)

    if len(first) + len(second) <= 9:
        assert len(found) == distance(tuple(first), tuple(second))


def spec(*layers: dict[str, object]) -> ModelSpec:
    tree = {
        "archspec": 1,
        "input": {"kind": "tokens", "vocab_size": 32, "seq_len": 32},
        "causal": True,
        "d_model": 16,
        "stem": "embedding",
        "layers": list(layers),
        "head": "lm",
    }
    return ModelSpec.model_validate(tree, context=load_zoo().components)


def test_repeats_are_written_out_and_one_layer_is_swapped() -> None:
    repeated, other = flat(spec({"repeat": 2, "layers": [MAMBA]})), flat(spec(ATTENTION, MAMBA))
    assert layer_words(repeated) == ("mamba2 (d_state 8, d_head 8)",) * 2
    (edit,) = edits(layer_words(repeated), layer_words(other))
    assert spec_hash(edited(repeated, edit, other)) == spec_hash(other)


@pytest.fixture
def result() -> SearchResult:
    """A hybrid, all-attention, and a third: of the hybrid's two swaps one was trained."""
    from archspec.study import Target

    costing = Costing(Target(), load_zoo())

    def row(trial: int, made: ModelSpec, score: float, **more: object) -> Row:
        costs = costing.costs(made)
        fields: dict[str, object] = {
            "status": "done",
            "strip": layer_pairs(made),
            "objectives": {"score": score, "params": costs["params"]},
            "costs": costs,
            "feasible": True,
            "spec": dump_spec(made),
        }
        return Row(trial, spec_hash(made), f"row{trial}", **(fields | more))  # type: ignore[arg-type]

    rows = (
        row(0, spec(ATTENTION, ATTENTION, ATTENTION), 0.5, baseline="all_attention"),
        row(1, spec(MAMBA, ATTENTION, MAMBA), 0.9, on_front=True, rank=0),
        row(2, spec(MAMBA, ATTENTION, ATTENTION), 0.7),
        row(3, spec(MAMBA), 0.2, on_front=True, rank=0),
    )
    return SearchResult(
        study="cards", description="", tasks=(), aggregate="mean", budgets=(), target={}, rows=rows,
        objectives=(
            Objective("score", "maximize", "", 1.0, 0.0),
            Objective("params", "minimize", "count", 0.0, 1e5),
        ),
        hypervolume=(), text_baselines=(), verdict=Verdict("", 1, 0, 1, True, 0.5, 0.1), refusals={},
        failures={}, fronts_by_aggregate={}, space_size=(8, True), seed=0, complete=True, stopped="",
        provenance={},
    )  # fmt: skip


def test_a_card_names_the_nearest_baseline_and_the_neighbours(result: SearchResult) -> None:
    first, second = cards(result)
    assert first.nearest_baseline is not None
    assert first.nearest_baseline.baseline == "all_attention"
    assert [change.place for change in first.nearest_baseline.changes] == ["layer 1", "layer 3"]
    assert first.nearest_baseline.effects["score"] == pytest.approx(-0.4)
    assert [other.trial for other in first.neighbours] == [3]
    assert [other.trial for other in second.neighbours] == [1]


def test_a_swap_that_was_trained_has_its_score_and_another_has_costs_alone(result: SearchResult) -> None:
    swaps = {(s.towards, s.change.place): s for s in cards(result)[0].swaps}
    trained = swaps["all_attention", "layer 3"]
    assert (trained.source, trained.trial) == ("trial", 2)
    assert trained.effects["score"] == pytest.approx(-0.2)
    other = swaps["all_attention", "layer 1"]
    assert (other.source, other.trial, dict(other.expected)) == ("closed form", None, {})
    assert "score" not in other.effects
    assert other.effects["params"] == trained.effects["params"], "the same layers, elsewhere"
    assert "its score is not known" in card_words(cards(result)[0], result).swaps[0].known


def test_without_specs_genes_and_kinds_are_compared(result: SearchResult) -> None:
    bare = tuple(replace(row, spec="", genes={"width": row.trial}) for row in result.rows)
    card = cards(replace(result, rows=bare))[0]
    assert card.swaps == ()
    assert card.nearest_baseline is not None
    assert [c.place for c in card.nearest_baseline.changes] == ["layer 1", "layer 3", "width"]


def test_the_command_explains_one_member_or_says_who_there_is(
    tmp_path: Path, result: SearchResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archspec.commands import main

    monkeypatch.setattr("search.solve.load_result", lambda folder: result)
    monkeypatch.setattr("sys.argv", ["archspec", "front", str(tmp_path), "row1", "--explain"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = capsys.readouterr().out
    assert "nearest baseline: all_attention" in told
    assert "trained: trial 2" in told
    monkeypatch.setattr("sys.argv", ["archspec", "front", str(tmp_path), "rwo1", "--explain"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "nobody called 'rwo1' is on the front" in capsys.readouterr().err
