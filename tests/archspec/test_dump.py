"""A spec that is dumped and read again is the same spec."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import compiler
from archspec import ModelSpec
from archspec.components import Components
from archspec.dump import dump_spec
from archspec.identity import spec_hash
from archspec.source import load_source, parse_source
from archspec.space import Space
from archspec.validate import validate
from zoo import load_zoo

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for folder in ("papers", "hybrids") for path in ROOT.glob(f"specs/{folder}/*.yaml"))
WIDE = """
archspec: 1
name: {choice: [a, b-2, "1", null_, x.y]}
description:
  choice: ["", "a: b # c", "two\\nlines", "'quoted' \\"twice\\"", "ünïcode → ☃ \\u2028 \\x07", "no", "1e3"]
input:
  choice:
    t: {kind: tokens, vocab_size: 64, seq_len: 32}
    f: {kind: features, d_input: 3, seq_len: 32}
    i: {kind: image, height: 8, width: 8}
causal: {choice: [true, false]}
d_model: {int: [1, 100]}
norm: {choice: [rmsnorm, layernorm, {kind: rmsnorm, eps: 1e-6}]}
"""
LABELLED = (
    WIDE.replace(
        "[rmsnorm, layernorm, {kind: rmsnorm, eps: 1e-6}]",
        "{r: rmsnorm, l: layernorm, e: {kind: rmsnorm, eps: 1e-6}}",
    )
    + """
residual: {choice: [pre, post, none]}
stem: {choice: {e: embedding, l: {kind: embedding, positions: learned}, p: {kind: patch, patch_size: 2}}}
layers:
  choice:
    few: [{choice: {a: {token_mixer: attention}, b: {channel_mixer: swiglu}, c: {token_mixer: none}}}]
    many:
      - {repeat: {int: [1, 3]}, layers: [{token_mixer: mamba2, channel_mixer: {kind: swiglu, d_ff: 64, bias: {choice: [true, false]}}}]}
      - loop: {int: [1, 3]}
        layers:
          - {token_mixer: {kind: attention, window: {choice: [null, 8]}, dropout: {float: [0, 0.5]}}, norm: {choice: [layernorm, rmsnorm]}}
          - {repeat: 2, layers: [{channel_mixer: mlp, residual: none}]}
      - {pattern: "M*-M", symbols: {M: mamba2, "*": {token_mixer: attention, channel_mixer: mlp}, "-": {kind: swiglu, d_ff: 16}}}
      - token_mixer: {parallel: [attention, {kind: mamba2, d_state: {choice: [16, 64]}}], combine: {choice: [mean, sum]}}
      - fit:
          n_groups: 4
          n_latents: 2
          d_latent: 16
          schedule: {choice: ["(1)2(1)", "(2)1"]}
          positions: {choice: [none, learned]}
          local: {token_mixer: attention, channel_mixer: mlp}
          global: {token_mixer: {choice: [attention, mamba2]}}
          read: {choice: {d: read, h: {kind: read, n_heads: 2}}}
head: {choice: {l: lm, t: {kind: lm, tied: true}}}
"""
)


@given(seed=st.integers(0, 2**32))
def test_dump_and_load_is_identity(seed: int, components: Components) -> None:
    space = Space(parse_source(LABELLED))
    spec = space.spec(space.sample(random.Random(seed)), components)
    for defaults in (False, True):
        text = dump_spec(spec, comment="why\nit is", defaults=defaults)
        again = validate(ModelSpec, parse_source(text), components)
        assert again == spec
        assert spec_hash(again) == spec_hash(spec)
    assert dump_spec(again) == dump_spec(spec)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_specs_survive(path: Path) -> None:
    spec = compiler.load_spec(path)
    text = dump_spec(spec)
    assert all(len(line) <= 110 for line in text.splitlines())
    again = validate(ModelSpec, parse_source(text), load_zoo().components)
    assert (again, spec_hash(again)) == (spec, spec_hash(spec))


def test_a_dump_reads_as_a_person_would_write_it(components: Components) -> None:
    text = """# yaml-language-server: $schema=../spec.schema.json
# A hybrid.
archspec: 1
name: hybrid
input: {kind: tokens, vocab_size: 512, seq_len: 1024}
causal: true
d_model: 256
stem: embedding
layers:
  - {token_mixer: mamba2, channel_mixer: swiglu}
  - repeat: 3
    layers:
      - {token_mixer: {kind: attention, window: 256}, channel_mixer: {kind: swiglu, d_ff: 640}}
  - pattern: M*
    symbols: {M: {token_mixer: mamba2}, "*": {token_mixer: attention}}
head: {kind: lm, tied: true}
"""
    text = text.replace("  - pattern: M*\n    symbols: {", '  - {pattern: "M*", symbols: {').replace(
        "attention}}\nhead", "attention}}}\nhead"
    )
    spec = validate(ModelSpec, parse_source(text), components)
    assert dump_spec(spec, comment="A hybrid.", schema="../spec.schema.json") == text


def test_a_comment_cannot_break_out_of_its_line(components: Components) -> None:
    space = Space(parse_source(LABELLED))
    spec = space.spec(space.sample(random.Random(0)), components)
    text = dump_spec(spec, comment="one\rarchspec: 2\x0b\u2028archspec: 3\narchspec: 4")
    assert validate(ModelSpec, parse_source(text), components) == spec


def test_the_shipped_specs_are_found() -> None:
    assert load_source(SHIPPED[0]).tree["archspec"] == 1
