"""Small models with an encoder: two widths, two vocabularies, cross attention full and through clusters."""

from __future__ import annotations

import torch

HEAD = """
archspec: 1
name: test
input: {kind: tokens, vocab_size: 31, seq_len: 24}
causal: true
d_model: 16
encoder:
  input: {kind: tokens, vocab_size: 37, seq_len: 40}
  d_model: 24
  stem: {kind: embedding, positions: learned}
  layers:
    - {token_mixer: attention, channel_mixer: mlp}
    - {token_mixer: {kind: routing, n_clusters: 3, cluster_window: 13, window: 7}, residual: post, norm: layernorm}
stem: embedding
head: lm
"""
ROUTED = "{kind: routing, n_clusters: 3, cluster_window: 8, window: 7}"
LAYERS = f"""
- {{token_mixer: attention, cross: attention, channel_mixer: mlp}}
- loop: 2
  layers: [{{token_mixer: {ROUTED}, cross: {ROUTED}, residual: post}}]
- {{cross: {{kind: attention, n_heads: 2, qkv_bias: true}}, norm: layernorm}}
"""
SOURCE = torch.randint(37, (3, 33), generator=torch.Generator().manual_seed(0))
TARGET = torch.randint(31, (3, 21), generator=torch.Generator().manual_seed(1))
SOURCE_MASK = torch.arange(33) < torch.tensor([[33], [20], [1]])
