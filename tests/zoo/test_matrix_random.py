"""Matrix mixers over random configurations: every structure, of tokens and of tables, causal where it may be."""

from __future__ import annotations

import pytest
import torch
from equal_paths import CLOSE, assert_paths_agree, lengths_around, masks
from hypothesis import given, settings
from hypothesis import strategies as st

from archspec import Site
from zoo.causality import randomised
from zoo.token_mixers.matrix import Matrix

D = 6
FORMS = [
    pytest.param(structure, of_tokens, id=f"{structure}-{'tokens' if of_tokens else 'tables'}")
    for structure in Matrix.Config.model_fields["structure"].annotation.__args__  # type: ignore[union-attr]
    for of_tokens in (True, False)
    if not (of_tokens and structure in ("dense", "dft"))
]


@st.composite
def configs(draw: st.DrawFn, structure: str, of_tokens: bool) -> Matrix.Config:
    expand = draw(st.integers(1, 2), label="expand")
    has_pairs = structure not in ("dense", "toeplitz", "dft")
    return Matrix.Config.model_validate(
        {
            "structure": structure,
            "data_dependent": of_tokens,
            "d_qk": draw(st.integers(1, 5)) if has_pairs else None,
            "d_head": draw(st.sampled_from([n for n in (1, 2, 3, 4, 6, 12) if expand * D % n == 0])),
            "expand": expand,
            "d_conv": draw(st.sampled_from([1, 3, 7])),
            "max_len": draw(st.sampled_from([1, 5, 16, 31, 64, 67])),
            "residual": draw(st.sampled_from(["auto", "identity", "diagonal", "none"])),
            "chunk_size": draw(st.sampled_from([1, 3, 8, 16, 64])),
            "bias": draw(st.booleans()),
        }
    )


@pytest.mark.parametrize(("structure", "of_tokens"), FORMS)
def test_fast_equals_reference(structure: str, of_tokens: bool) -> None:
    """Values and gradients, at lengths around the chunks, with padding before, after and between."""

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        config = data.draw(configs(structure, of_tokens))
        may_be_causal = config.capabilities().causal == "switch"
        causal = data.draw(st.booleans(), label="causal") if may_be_causal else False
        most = min(67, config.capabilities().length_at_most or 67)
        length = lengths_around(data.draw, config.chunk_size, at_most=most)
        mask, seed = masks(data.draw, length), data.draw(st.integers(0, 9), label="seed")
        assert_paths_agree(Matrix(config, Site(D, 128, causal)), length, mask, seed=seed)

    law()


@pytest.mark.parametrize("of_tokens", [True, False], ids=["tokens", "tables"])
@pytest.mark.parametrize("structure", ["toeplitz", "low_rank", "attention"])
def test_steps_equal_the_whole(structure: str, of_tokens: bool) -> None:
    """Token by token after a prefix of any length, from none to all but one."""

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def law(data: st.DataObject) -> None:
        config = data.draw(configs(structure, of_tokens))
        length = data.draw(st.integers(1, min(20, config.capabilities().length_at_most or 20)))
        n = data.draw(st.integers(0, length - 1), label="prefix")
        seed = data.draw(st.integers(0, 9), label="seed")
        mixer = randomised(Matrix(config, Site(D, 128, causal=True)), seed)
        assert isinstance(mixer, Matrix)
        x = torch.randn(2, length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        state, ys = mixer.init_state(2, dtype=x.dtype, device="cpu"), []
        if n:
            y, state = mixer.prefill(x[:, :n], state)
            ys += y.unbind(1)
        for token in x[:, n:].unbind(1):
            y, state = mixer.step(token, state)
            ys.append(y)
        torch.testing.assert_close(torch.stack(ys, dim=1), mixer(x), **CLOSE)

    law()
