"""Hydra over random configurations."""

from __future__ import annotations

from equal_paths import assert_paths_agree, lengths_around, masks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archspec import Site
from zoo.token_mixers.hydra import Hydra

D = 6


@st.composite
def cases(draw: st.DrawFn) -> tuple[Hydra.Config, int, Tensor | None, int]:
    """A configuration, a length, a mask or none, and a seed."""
    expand = draw(st.integers(1, 3), label="expand")
    d_head = draw(st.sampled_from([n for n in (1, 2, 3, 4, 6, 12, 18) if expand * D % n == 0]))
    n_heads = expand * D // d_head
    config = Hydra.Config(
        d_state=draw(st.integers(1, 5)),
        d_head=d_head,
        n_groups=draw(st.sampled_from([n for n in range(1, n_heads + 1) if n_heads % n == 0])),
        expand=expand,
        d_conv=draw(st.sampled_from([1, 3, 5, 7])),
        chunk_size=draw(st.sampled_from([1, 2, 3, 5, 8, 16, 64])),
        shift=draw(st.booleans()),
        diagonal=draw(st.booleans()),
        combine=draw(st.sampled_from(["add", "multiply", "concat"])),
        initial_state=draw(st.sampled_from(["zero", "learned"])),
        bias=draw(st.booleans()),
    )
    length = lengths_around(draw, config.chunk_size, at_most=67)
    return config, length, masks(draw, length), draw(st.integers(0, 9), label="seed")


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(cases())
def test_fast_equals_reference(case: tuple[Hydra.Config, int, Tensor | None, int]) -> None:
    """Values and gradients, at lengths around the chunks, with padding before, after and between."""
    config, length, mask, seed = case
    assert_paths_agree(Hydra(config, Site(D, 128, causal=False)), length, mask, seed=seed)
