"""Numbers and counts beyond all measure: refused, or computed with, but never built."""

from __future__ import annotations

from pathlib import Path

import pytest

import compiler
from archspec import SpecError
from archspec.nodes import MAX_FILE_BYTES
from archspec.source import load_source, parse_source
from archspec.space import Space

SPEC = """archspec: 1
input: {kind: tokens, vocab_size: 64, seq_len: 32}
causal: true
d_model: 32
stem: embedding
layers:
  - repeat: 1
    layers: [{token_mixer: {kind: attention, n_heads: 4}, channel_mixer: {kind: swiglu}}]
head: lm
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("d_model: 32", "d_model: 1000000000"),
        ("d_model: 32", "d_model: 1e9"),
        ("d_model: 32", "d_model: -1"),
        ("d_model: 32", "d_model: .inf"),
        ("d_model: 32", "d_model: .nan"),
        ("d_model: 32", f"d_model: {'9' * 300}"),
        ("d_model: 32", f"d_model: {'9' * 100_000}"),
        ("d_model: 32", f"d_model: 0x{'f' * 100_000}"),
        ("vocab_size: 64", "vocab_size: 99999999999"),
        ("seq_len: 32", "seq_len: 99999999999"),
        ("repeat: 1", "repeat: 1000000"),
        ("repeat: 1", "repeat: 0x7fffffffffffffff"),
        ("repeat: 1", "loop: 1000000"),
        ("repeat: 1", "repeat: 10000\n    extra: 1"),
    ],
)
def test_a_number_out_of_bounds_is_refused_where_it_stands(old: str, new: str, tmp_path: Path) -> None:
    spec = tmp_path / "x.yaml"
    spec.write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError) as caught:
        compiler.load_spec(spec)
    problem = caught.value.problems[0]
    assert problem.line is not None
    assert len(problem.render()) < 1000


def test_repeats_of_repeats_do_not_multiply_without_end(tmp_path: Path) -> None:
    inner = "{token_mixer: attention}"
    for _ in range(15):
        inner = f"{{repeat: 10000, layers: [{inner}]}}"
    spec = tmp_path / "x.yaml"
    spec.write_text(SPEC.split("layers:")[0] + f"layers: [{inner}]\nhead: lm\n")
    with pytest.raises(SpecError, match="layers once written out; at most"):
        compiler.load_spec(spec)


def test_nothing_is_built_to_check_or_profile(tmp_path: Path) -> None:
    """The widest channel mixer is legal to write, and no weight is made of it by checking or profiling."""
    spec = tmp_path / "x.yaml"
    spec.write_text(SPEC.replace("{kind: swiglu}", "{kind: swiglu, d_ff: 1000000}"))
    model = compiler.load_spec(spec)
    compiler.build_graph(model)
    assert compiler.profile(model).params > 3 * 32 * 10**6


def test_files_beyond_a_mebibyte_are_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"# " + b"x" * MAX_FILE_BYTES)
    with pytest.raises(SpecError, match="longer than 1,048,576 bytes"):
        load_source(path)
    with pytest.raises(SpecError, match="longer than 1,048,576 bytes"):
        parse_source("#" + "\u00e9" * (MAX_FILE_BYTES // 2))


def test_a_space_with_more_fillings_than_atoms_is_counted_at_once() -> None:
    space = Space(parse_source("".join(f"k{i}: {{int: [1, 1000000]}}\n" for i in range(500))))
    assert space.count() == (10**3000, True)


def test_more_holes_than_a_search_can_use() -> None:
    with pytest.raises(SpecError, match="more than 1,000 holes"):
        Space(parse_source("".join(f"k{i}: {{choice: [1, 2]}}\n" for i in range(1001))))


@pytest.mark.parametrize(
    "hole",
    ["{int: [1, 1e400]}", f"{{int: [1, {'9' * 300}]}}", "{float: [-1e308, 1e308]}", "{float: [0, .inf]}"],
)
def test_ranges_without_end(hole: str) -> None:
    with pytest.raises(SpecError):
        Space(parse_source(f"a: {hole}"))
