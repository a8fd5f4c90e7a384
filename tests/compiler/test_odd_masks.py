"""Packed sequences, and whatever else is no mask, are refused with a word on what to do; never misread."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from encoder_cases import HEAD, SOURCE, TARGET
from torch import Tensor

from archspec.spec import ModelSpec
from compiler import compile_spec

SpecMaker = Callable[..., ModelSpec]
DOCUMENTS = torch.tensor([[0] * 9 + [1] * 12] * 3)  # two in a row
ODD = {
    "numbers of documents": DOCUMENTS,
    "a mask of pairs": DOCUMENTS[:, :, None] == DOCUMENTS[:, None],
    "zeros and ones": torch.ones(3, 21),
    "a boolean mask of one row": torch.ones(21, dtype=torch.bool),
    "a mask of another batch": torch.ones(2, 21, dtype=torch.bool),
    "a mask of another length": torch.ones(3, 20, dtype=torch.bool),
}
EACH = pytest.mark.parametrize("mask", ODD.values(), ids=ODD)
REFUSAL = (
    r"boolean of shape \(B, L\) = \(3, 21\).*packed sequences .* are not supported: give each document a row"
)
LAYERS = "- {token_mixer: attention, channel_mixer: mlp}"


@EACH
def test_a_model_refuses(make_spec: SpecMaker, mask: Tensor) -> None:
    model = compile_spec(make_spec(LAYERS), gate=False)
    for call in (
        lambda: model(TARGET, mask),
        lambda: model(TARGET, mask=mask),
        lambda: model.outputs(TARGET, mask),
    ):
        with pytest.raises(ValueError, match=REFUSAL):
            call()
    assert model(TARGET, torch.ones(3, 21, dtype=torch.bool)).shape == (3, 21, 31)


@EACH
def test_the_module_of_a_model_refuses_too(make_spec: SpecMaker, mask: Tensor) -> None:
    """Whoever runs the plain torch module meets the same words, from the first mixer that reads a mask."""
    model = compile_spec(make_spec(LAYERS), gate=False)
    with pytest.raises(ValueError, match=REFUSAL):
        model.module(TARGET, mask)


@EACH
def test_a_model_with_an_encoder_refuses_on_both_sides(make_spec: SpecMaker, mask: Tensor) -> None:
    model = compile_spec(make_spec("- {token_mixer: attention, cross: attention}", head=HEAD), gate=False)
    with pytest.raises(ValueError, match=REFUSAL):
        model(SOURCE, TARGET, mask=mask)
    source = SOURCE[:, :21]
    with pytest.raises(ValueError, match=REFUSAL):
        model(source, TARGET, source_mask=mask)
    with pytest.raises(ValueError, match=REFUSAL):
        model.decoder().init_state(3, source, mask)


@EACH
def test_a_model_that_reads_no_mask_does_not_take_it_in_silence(make_spec: SpecMaker, mask: Tensor) -> None:
    """No mixer is there to refuse it: the model does, and so does what decodes."""
    plain = compile_spec(make_spec("- {channel_mixer: mlp}"), gate=False)
    with pytest.raises(ValueError, match=REFUSAL):
        plain(TARGET, mask)
    blind = "encoder.layers=[{channel_mixer: mlp}]"
    model = compile_spec(make_spec("- {cross: attention}", blind, head=HEAD), gate=False)
    with pytest.raises(ValueError, match=REFUSAL):
        model.decoder().init_state(3, SOURCE[:, :21], mask)


def test_padding_each_document_is_what_packing_would_be(make_spec: SpecMaker) -> None:
    """What the refusal advises: rows of one document each give what the documents give alone."""
    model = compile_spec(make_spec(LAYERS), gate=False).eval()
    first, second = TARGET[:1, :9], TARGET[:1, 9:]
    rows = torch.zeros(2, 12, dtype=torch.long)
    rows[0, :9], rows[1] = first, second
    mask = torch.arange(12) < torch.tensor([[9], [12]])
    with torch.no_grad():
        y = model(rows, mask)
        torch.testing.assert_close(y[:1, :9], model(first), rtol=0, atol=1e-5)
        torch.testing.assert_close(y[1:], model(second), rtol=0, atol=1e-5)
