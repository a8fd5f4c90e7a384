"""Widths that are written out and those that null stands for: one hash, one computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from archspec import ModelSpec
from archspec.identity import spec_hash
from archspec.source import parse_source
from compiler import resolve
from zoo import load_zoo
from zoo.checks import all_cases
from zoo.checks.manners import check_identity

ZOO = load_zoo()
HEAD = """archspec: 1
input: {kind: tokens, vocab_size: 64, seq_len: 64}
causal: true
d_model: 32
stem: embedding
head: lm
"""
SAME = [
    ("token_mixer", "{kind: attention, n_heads: 4, n_kv_heads: 4}", "{kind: attention, n_heads: 4}"),
    ("token_mixer", "{kind: attention, n_heads: 4, d_head: 8}", "{kind: attention, n_heads: 4}"),
    ("token_mixer", "{kind: combiner, n_heads: 2, d_head: 16}", "{kind: combiner, n_heads: 2}"),
    (
        "token_mixer",
        "{kind: routing, n_heads: 2, d_head: 16, n_routed_heads: 1, cluster_window: 8}",
        "{kind: routing, n_heads: 2, cluster_window: 8}",
    ),
    ("channel_mixer", "{kind: mlp, d_ff: 128}", "mlp"),
    ("channel_mixer", "{kind: mlp, ratio: 4}", "mlp"),
    ("channel_mixer", "{kind: mlp, ratio: 2}", "{kind: mlp, d_ff: 64}"),
    ("channel_mixer", "{kind: swiglu, d_ff: 96}", "swiglu"),
    ("channel_mixer", "{kind: swiglu, multiple_of: 16}", "swiglu"),
    ("channel_mixer", "{kind: swiglu, d_ff: 96, multiple_of: 64}", "swiglu"),
]
OTHER = [
    ("token_mixer", "{kind: attention, n_heads: 4, n_kv_heads: 2}", "{kind: attention, n_heads: 4}"),
    ("token_mixer", "{kind: attention, n_heads: 4, d_head: 16}", "{kind: attention, n_heads: 4}"),
    (
        "token_mixer",
        "{kind: routing, n_heads: 2, n_routed_heads: 2, cluster_window: 8}",
        "{kind: routing, n_heads: 2, cluster_window: 8}",
    ),
    ("channel_mixer", "{kind: mlp, ratio: 2}", "mlp"),
    ("channel_mixer", "{kind: swiglu, d_ff: 128}", "swiglu"),
]


def spec(role: str, mixer: str) -> ModelSpec:
    return resolve(parse_source(f"{HEAD}layers:\n  - {role}: {mixer}\n"), ZOO)


@pytest.mark.parametrize(("role", "one", "other"), SAME)
def test_one_hash(role: str, one: str, other: str) -> None:
    assert spec_hash(spec(role, one)) == spec_hash(spec(role, other))
    in_parallel = [f"{{parallel: [{mixer}, {mixer}], combine: mean}}" for mixer in (one, other)]
    if role == "token_mixer":
        hashes = {spec_hash(spec(role, mixer)) for mixer in in_parallel}
        assert len(hashes) == 1


@pytest.mark.parametrize(("role", "one", "other"), OTHER)
def test_another_hash(role: str, one: str, other: str) -> None:
    assert spec_hash(spec(role, one)) != spec_hash(spec(role, other))


@pytest.mark.parametrize(("role", "one", "other"), SAME)
def test_one_computation(role: str, one: str, other: str) -> None:
    for mixer in (one, other):
        config: Any = getattr(spec(role, mixer).layers[0], role)
        kinds = (c for c in all_cases(ZOO) if c.role == role and c.config.kind == config.kind)
        case = next(c for c in kinds if c.d_model == 32 and c.causal)
        check_identity(replace(case, config=config))


def test_the_width_is_that_of_the_stream() -> None:
    """FIT's global layers stand on the latents; 4 times their width is another number than outside."""
    fit = """
  - fit:
      n_groups: 4
      n_latents: 2
      d_latent: 16
      schedule: (1)2(1)2
      local: {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: %s}
      global: {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: %s}
"""

    def found(local: str, inner: str) -> str:
        return spec_hash(resolve(parse_source(HEAD + "layers:" + fit % (local, inner)), ZOO))

    usual = found("mlp", "mlp")
    assert found("{kind: mlp, d_ff: 128}", "{kind: mlp, d_ff: 64}") == usual
    assert found("{kind: mlp, d_ff: 64}", "mlp") != usual
    assert found("mlp", "{kind: mlp, d_ff: 128}") != usual
