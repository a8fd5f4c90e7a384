"""Search spaces: holes, fillings, shares, counts; and what is no hole."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archspec import SpecError
from archspec.components import Components
from archspec.holes import has_hole
from archspec.identity import spec_hash
from archspec.source import parse_source
from archspec.space import Space

SPACE = """
archspec: 1
input: {kind: tokens, vocab_size: 512, seq_len: 1024}
causal: true
d_model: {choice: [32, 64], share: d}
stem: embedding
layers:
  - repeat: {int: [1, 4]}
    layers:
      - token_mixer:
          choice:
            a: {kind: attention, n_heads: {choice: [1, 2]}, dropout: {choice: [0.1, 0.2], share: p}}
            n: none
        channel_mixer: {kind: swiglu, d_ff: {share: d}}
  - token_mixer: {choice: [none, {kind: attention, n_heads: {int: [2, 8], step: 2}}]}
head: lm
"""


def space(text: str = SPACE) -> Space:
    return Space(parse_source(text, file="s.yaml"))


def test_genes_are_paths_with_the_labels_of_their_branches() -> None:
    assert [(hole.gene, hole.kind) for hole in space().holes] == [
        ("d_model", "choice"),
        ("layers[0].repeat", "int"),
        ("layers[0].layers[0].token_mixer", "choice"),
        ("layers[0].layers[0].token_mixer<a>.n_heads", "choice"),
        ("layers[0].layers[0].token_mixer<a>.dropout", "choice"),
        ("layers[1].token_mixer", "choice"),
        ("layers[1].token_mixer<attention>.n_heads", "int"),
    ]
    by_gene = space().by_gene
    assert by_gene["d_model"].options == (32, 64)
    assert by_gene["layers[0].layers[0].token_mixer"].options == ("a", "n")
    assert by_gene["layers[1].token_mixer"].options == ("none", "attention")
    nested = by_gene["layers[1].token_mixer<attention>.n_heads"]
    assert (nested.low, nested.high, nested.step, list(nested.values)) == (2, 8, 2, [2, 4, 6, 8])
    assert nested.requires == (("layers[1].token_mixer", "attention"),)


GENES = {
    "d_model": 64,
    "layers[0].repeat": 3,
    "layers[0].layers[0].token_mixer": "a",
    "layers[0].layers[0].token_mixer<a>.n_heads": 2,
    "layers[0].layers[0].token_mixer<a>.dropout": 0.2,
    "layers[1].token_mixer": "attention",
    "layers[1].token_mixer<attention>.n_heads": 6,
}


def test_filling_puts_values_where_the_holes_were() -> None:
    tree = space().fill(GENES).tree
    assert tree["d_model"] == 64
    assert tree["layers"] == [
        {
            "repeat": 3,
            "layers": [
                {
                    "token_mixer": {"kind": "attention", "n_heads": 2, "dropout": 0.2},
                    "channel_mixer": {"kind": "swiglu", "d_ff": 64},
                }
            ],
        },
        {"token_mixer": {"kind": "attention", "n_heads": 6}},
    ]


def test_values_keep_the_place_of_their_option() -> None:
    source = space().fill(GENES)
    path = ("layers", 0, "layers", 0, "token_mixer", "n_heads")
    assert (source.place(path).line, source.place(path).width) == (12, 1)
    assert source.place(path).excerpt[source.place(path).column - 1] == "2"
    assert source.place(("layers", 0, "repeat")).line == 8


def test_genes_of_branches_that_are_not_taken_do_not_matter(components: Components) -> None:
    one = GENES | {"layers[1].token_mixer": "none"}
    other = one | {"layers[1].token_mixer<attention>.n_heads": 2}
    assert space().active(one) == GENES.keys() - {"layers[1].token_mixer<attention>.n_heads"}
    assert spec_hash(space().spec(one, components)) == spec_hash(space().spec(other, components))
    assert space().active(GENES) == GENES.keys()


def test_every_filling_is_enumerated_once_and_counted(components: Components) -> None:
    every = list(space().enumerate())
    hashes = {spec_hash(space().spec(genes, components)) for genes in every}
    assert space().count() == (len(every), True) == (len(hashes), True)
    assert len(hashes) == 2 * 4 * (2 * 2 + 1) * (1 + 4)


def test_an_error_in_a_filling_stands_in_the_space(components: Components) -> None:
    text = SPACE.replace("n_heads: {choice: [1, 2]}", "n_heads: {choice: [1, 0]}")
    with pytest.raises(SpecError) as caught:
        space(text).spec(GENES | {"layers[0].layers[0].token_mixer<a>.n_heads": 0}, components)
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == ("s.yaml", 12)
    assert problem.path == "layers[0].layers[0].token_mixer.n_heads"
    assert problem.excerpt is not None
    assert problem.column is not None
    assert problem.excerpt[problem.column - 1] == "0"


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ({"d_model": 48}, "48 is no value of this hole"),
        ({"d_model": "64"}, "'64' is no value of this hole"),
        ({"d_model": True}, "true is no value of this hole"),
        ({"layers[0].repeat": 5}, "5 is no value of this hole"),
        ({"layers[0].repeat": 2.0}, "2.0 is no value of this hole"),
        ({"layers[1].token_mixer<attention>.n_heads": 3}, "3 is no value of this hole"),
        ({"nonsense": 1}, "this space has no gene 'nonsense'"),
    ],
)
def test_genes_that_do_not_belong(genes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        space().fill(GENES | genes)


@pytest.mark.parametrize("value", [True, 1.0, "1"])
def test_an_option_is_itself_and_nothing_that_equals_it(value: Any) -> None:
    with pytest.raises(SpecError, match="is no value of this hole"):
        space("a: {choice: [1, 2]}").fill({"a": value})


def test_a_missing_gene_is_named() -> None:
    with pytest.raises(SpecError) as caught:
        space().fill({})
    assert (caught.value.message, caught.value.path) == ("no value for this hole", "d_model")


@pytest.mark.parametrize(
    ("hole", "message", "column"),
    [
        ("{choice: []}", "a choice needs at least one option", 13),
        ("{choice: {}}", "a choice needs at least one option", 13),
        ("{choice: 3}", "a choice is a list or a mapping of options, got 3", 13),
        ("{choice: [1, 1]}", "two options of this choice are called 1", 17),
        ("{choice: [{kind: x, a: 1}, {kind: x}]}", "two options of this choice are called 'x'", 31),
        ("{choice: [{a: 1}]}", "this option needs a label", 14),
        ("{choice: [[1]]}", "this option needs a label", 14),
        ("{choice: [{choice: [1]}]}", "this option needs a label", 14),
        ("{choice: {'a<b': 1}}", "an option cannot be labelled 'a<b'", 14),
        ("{choice: {int: 1}}", "an option cannot be labelled 'int'", 14),
        ("{choice: [.inf]}", "an option must be finite", 14),
        ("{int: [3, 1]}", "low must be at most high, got [3, 1]", 10),
        ("{int: [1]}", "'int' takes two integers [low, high], got [1]", 10),
        ("{int: [1.5, 2]}", "'int' takes two integers", 10),
        ("{int: [true, 2]}", "'int' takes two integers", 10),
        ("{int: 4}", "'int' takes two integers", 10),
        ("{int: [0, 4], log: true}", "a logarithmic range must begin above 0, got 0", 23),
        ("{int: [1, 4], log: 1}", "'log' must be true or false, got 1", 23),
        ("{int: [1, 10], step: 2}", "[1, 10] is no whole number of steps of 2", 25),
        ("{int: [1, 9], step: 0}", "'step' must be a positive integer, got 0", 24),
        ("{int: [1, 9], step: 2, log: true}", "a range has 'step' or 'log', not both", 24),
        ("{int: [1, 9], choice: [1]}", "a hole is one of choice and int, not both", 4),
        ("{int: [1, 9], low: 3}", "unknown field 'low' in a hole", 18),
        ("{float: [0, 1], step: 1}", "unknown field 'step' in a hole", 20),
        ("{float: [0, .inf]}", "the ends of a range must lie within", 12),
        ("{float: [.nan, 1]}", "the ends of a range must lie within", 12),
        ("{float: [a, 1]}", "'float' takes two numbers", 12),
        ("{float: [0, 1], log: true}", "must begin above 0", 25),
        ("{share: x}", "share 'x' has no values", 4),
        ("{choice: [1, 2], share: 3}", "'share' takes a name, got 3", 28),
    ],
)
def test_what_is_no_hole(hole: str, message: str, column: int) -> None:
    with pytest.raises(SpecError) as caught:
        space(f"a: {hole}")
    (problem,) = caught.value.problems
    assert message in problem.message
    assert (problem.line, problem.column, problem.path) == (1, column, "a")


def test_all_wrong_holes_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        space("a: {choice: []}\nb: {int: [2, 1]}\nc: {share: q}\n")
    assert [problem.line for problem in caught.value.problems] == [1, 2, 3]


def test_shares_must_agree_and_hold_no_holes() -> None:
    with pytest.raises(SpecError, match="share 's' has other values in line 1"):
        space("a: {choice: [1, 2], share: s}\nb: {choice: [1, 3], share: s}\n")
    with pytest.raises(SpecError, match="no holes of its own"):
        space("a: {choice: {x: {n: {choice: [1, 2]}}}, share: s}\n")


def test_a_share_may_be_used_before_it_is_defined() -> None:
    one = space(
        "a: {share: s}\nb: {choice: {x: [1], y: [2]}, share: s}\nc: {choice: {x: [1], y: [2]}, share: s}\n"
    )
    assert [hole.gene for hole in one.holes] == ["b"]
    assert one.fill({"b": "y"}).tree == {"a": [2], "b": [2], "c": [2]}
    assert one.count() == (2, True)


def test_a_share_in_branches_is_counted_by_the_fillings_that_differ() -> None:
    text = """
x: {choice: {p: {v: {choice: [1, 2, 3], share: s}}, q: 0}}
y: {choice: {p: {v: {share: s}}, q: 0}}
"""
    trees = {repr(space(text).fill(genes).tree) for genes in space(text).enumerate()}
    assert space(text).count() == (len(trees), True) == (3 + 3 + 3 + 1, True)


def test_float_holes_are_infinitely_many() -> None:
    one = space("a: {float: [1e-3, 1], log: true}\nb: {choice: [1, 2]}\n")
    assert one.count() == (math.inf, True)
    with pytest.raises(SpecError, match="cannot be enumerated"):
        next(one.enumerate())
    values = [one.sample(random.Random(seed))["a"] for seed in range(200)]
    assert all(1e-3 <= value <= 1 for value in values)
    assert sum(value < 0.03 for value in values) > 60  # half of them, since the logarithm is uniform


def test_too_many_shared_values_give_an_upper_bound() -> None:
    text = "".join(f"a{i}: {{int: [1, 100], share: s{i}}}\n" for i in range(3))
    assert space(text).count() == (100**3, False)


def test_ranges_are_sampled_whole() -> None:
    one = space("a: {int: [1, 4]}\nb: {int: [1, 4], log: true}\nc: {int: [2, 8], step: 3}\n")
    samples = [one.sample(random.Random(seed)) for seed in range(300)]
    assert {sample["a"] for sample in samples} == {1, 2, 3, 4}
    assert {sample["b"] for sample in samples} == {1, 2, 3, 4}
    assert {sample["c"] for sample in samples} == {2, 5, 8}


def test_two_holes_of_one_path_are_refused() -> None:
    with pytest.raises(SpecError, match="two holes have this same path"):
        space("a: {b: {choice: [1, 2]}}\na.b: {choice: [3, 4]}\n")


# Trees of scalars, lists, mappings and holes, for laws that hold of all of them.
SCALARS = st.one_of(st.integers(0, 99), st.sampled_from(["attention", "x y", "no", "1", ""]), st.booleans())
KEYS = st.sampled_from(["kind", "layers", "token_mixer", "n_heads", "window"])


def holes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    labelled = st.dictionaries(st.sampled_from(["p", "q", "r"]), inner, min_size=1)
    scalars = st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)
    return st.one_of(
        st.fixed_dictionaries({"choice": st.one_of(labelled, scalars)}),
        st.tuples(st.integers(0, 3), st.integers(0, 3)).map(lambda ends: {"int": sorted(ends)}),
    )


TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3), holes(inner)
    ),
    max_leaves=12,
)


def as_yaml(tree: Any) -> str:
    import json

    return json.dumps(tree)  # JSON is YAML


@given(tree=st.dictionaries(KEYS, TREES, min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_filling_leaves_no_hole_and_is_decided_by_the_active_genes(tree: dict[str, Any], seed: int) -> None:
    one = space(as_yaml(tree))
    genes = one.sample(random.Random(seed))
    filled = one.fill(genes)
    assert not has_hole(filled.root)
    active = one.active(genes)
    assert active <= genes.keys()
    assert one.fill({gene: genes[gene] for gene in active}).tree == filled.tree


@given(tree=st.dictionaries(KEYS, TREES, min_size=1, max_size=2))
def test_the_count_is_the_number_of_fillings(tree: dict[str, Any]) -> None:
    one = space(as_yaml(tree))
    n, is_exact = one.count()
    assert is_exact
    if n <= 200:
        every = list(one.enumerate())
        assert len(every) == n
        assert (
            len({tuple(sorted((g, repr(v)) for g, v in e.items() if g in one.active(e))) for e in every}) == n
        )
