"""Specs as text, made into what the compiler takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archspec.source import parse_source
from archspec.spec import ModelSpec
from compiler import resolve
from zoo import Zoo, load_zoo

HEAD = """
archspec: 1
name: test
input: {kind: tokens, vocab_size: 31, seq_len: 24}
causal: true
d_model: 16
stem: embedding
head: lm
"""

SpecMaker = Callable[..., ModelSpec]


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return load_zoo()


@pytest.fixture
def make_spec(zoo: Zoo) -> SpecMaker:
    """``make_spec("- {token_mixer: attention}", "causal=false")``: layers as YAML text, then overrides."""

    def make(layers: str, *overrides: str, head: str = HEAD, zoo: Zoo = zoo) -> ModelSpec:
        lines = "\n".join(f"  {line}" for line in layers.strip("\n").splitlines())
        return resolve(
            parse_source(f"{head}\nlayers:\n{lines}\n", file="test.yaml", overrides=overrides), zoo
        )

    return make
