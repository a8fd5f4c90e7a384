"""Small models that between them use every kind of node, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from archspec.spec import ModelSpec

Make = Callable[[str], ModelSpec]

_FIT = """
    - fit:
        n_groups: 4
        n_latents: 2
        d_latent: 24
        schedule: "(1)2(1)1(1)"
        positions: learned
        local: {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}
        global: {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}
        read: {kind: read, n_heads: 2}
        write: {kind: write, n_heads: 2}
"""
MODELS = {
    "attention": """
        causal: true
        layers:
          - repeat: 2
            layers: [{token_mixer: {kind: attention, n_heads: 4, n_kv_heads: 2}, channel_mixer: swiglu}]
        head: {kind: lm, tied: true}
        """,
    "windowed_post_norm": """
        causal: false
        residual: post
        norm: layernorm
        stem: {kind: embedding, positions: learned, d_embed: 8}
        layers:
          - token_mixer: {kind: attention, n_heads: 2, window: 8}
            channel_mixer: {kind: mlp, gated: true}
        head: {kind: masked_lm, d_embed: 8}
        """,
    "loop_of_parallel_mixers": """
        causal: true
        layers:
          - loop: 3
            layers:
              - token_mixer:
                  parallel: [{kind: mamba2, d_head: 8, d_state: 4}, {kind: attention, n_heads: 2}]
                  combine: concat
                channel_mixer: mlp
        """,
    "combiner_and_pool_without_residual": """
        causal: false
        residual: none
        layers: [{token_mixer: {kind: combiner, n_heads: 2, span: 8}}, {token_mixer: pool}]
        """,
    "fit_encoder": "causal: false\nlayers:" + _FIT + "head: {kind: classifier, n_classes: 5}",
    "fit_decoder": "causal: true\nlayers:" + _FIT,
    "patches": """
        input: {kind: features, d_input: 3, seq_len: 64}
        causal: false
        stem: {kind: patch, size: 4, cls_token: true}
        layers: [{token_mixer: {kind: attention, n_heads: 2, rope: false}, channel_mixer: mlp}]
        head: {kind: classifier, n_classes: 5, pool: cls}
        """,
    "images": """
        input: {kind: image, height: 16, width: 8, n_channels: 2}
        causal: false
        stem: {kind: patch, size: 4, positions: learned}
        layers: [{token_mixer: pool, channel_mixer: mlp}]
        head: {kind: classifier, n_classes: 5}
        """,
}  # fmt: skip
_DEFAULTS = {
    "archspec": "1",
    "name": "small",
    "input": "{kind: tokens, vocab_size: 31, seq_len: 64}",
    "d_model": "16",
    "stem": "embedding",
    "head": "lm",
}


def spec_text(text: str) -> str:
    """A small language model but for the lines in ``text``."""
    text = textwrap.dedent(text)
    given = {line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha()}
    lines = [f"{key}: {value}" for key, value in _DEFAULTS.items() if key not in given]
    return "\n".join([*lines, text])
