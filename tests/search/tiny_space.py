"""The space of the tests' smallest real studies: eight hybrids of two layers."""

SPACE = """\
archspec: 1
name: tiny
input: {kind: tokens, vocab_size: 32, seq_len: 32}
causal: true
d_model: 16
stem: embedding
layers:
  - token_mixer: {choice: [{kind: attention, n_heads: 2}, {kind: mamba2, d_state: 8, d_head: 8}]}
    channel_mixer: {choice: [none, {kind: swiglu, d_ff: 16}]}
  - token_mixer: {choice: [none, {kind: attention, n_heads: 2}]}
head: {kind: lm, tied: true}
"""
