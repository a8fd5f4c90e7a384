"""The layers of a model on one line."""

from __future__ import annotations

import pytest

from archspec import ModelSpec
from archspec.components import Components
from archspec.source import parse_source
from archspec.strip import strip
from archspec.validate import validate


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        ("[{token_mixer: mamba2, channel_mixer: swiglu}]", "mamba2+swiglu"),
        ("[{token_mixer: mamba2}, {token_mixer: mamba2}, {channel_mixer: mlp}]", "2 x mamba2 | mlp"),
        ("[{token_mixer: none}]", "none"),
        ("[{repeat: 2, layers: [{repeat: 3, layers: [{token_mixer: mamba2}]}, {token_mixer: attention}]}]",
         "2 x (3 x mamba2 | attention)"),
        ("[{loop: 2, layers: [{token_mixer: mamba2}, {channel_mixer: mlp}]}]", "2 turns of (mamba2 | mlp)"),
        ("[{pattern: MMA, symbols: {M: mamba2, A: attention}}]", "2 x mamba2 | attention"),
        ("[{token_mixer: {parallel: [mamba2, attention]}, channel_mixer: mlp}]", "{mamba2 & attention}+mlp"),
        ("[{fit: {n_groups: 2, n_latents: 2, d_latent: 8, schedule: '(1)2', local: {token_mixer: attention}, "
         "global: {token_mixer: mamba2}}}]", "fit[(1)2, local attention, global mamba2]"),
    ],
)  # fmt: skip
def test_strip(layers: str, text: str, components: Components) -> None:
    source = parse_source(
        "{archspec: 1, input: {kind: tokens, vocab_size: 8, seq_len: 8}, causal: true, d_model: 8, "
        f"stem: embedding, head: lm, layers: {layers}}}"
    )
    assert strip(validate(ModelSpec, source, components)) == text


def test_a_notebook_shows_yaml_and_no_markup_of_the_spec(components: Components) -> None:
    source = parse_source(
        "{archspec: 1, description: '<script>', input: {kind: tokens, vocab_size: 8, seq_len: 8}, causal: true, "
        "d_model: 8, stem: embedding, head: lm, layers: [{token_mixer: mamba2}]}"
    )
    shown = validate(ModelSpec, source, components)._repr_html_()
    assert shown.startswith("<pre># mamba2\narchspec: 1\n")
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
