"""A small model of bytes, for tasks to say whether they can train it."""

from __future__ import annotations

from archspec import ModelSpec
from zoo import load_zoo


def byte_model(**changes: object) -> ModelSpec:
    tree = {
        "archspec": 1,
        "input": {"kind": "tokens", "vocab_size": 256, "seq_len": 256},
        "causal": True,
        "d_model": 16,
        "stem": "embedding",
        "layers": [{"token_mixer": "attention"}],
        "head": "lm",
    }
    return ModelSpec.model_validate(tree | changes, context=load_zoo().components)
