"""Blocks of a model: what they are called, that they are all of it, and that nothing else is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import compiler
from archspec import SpecError
from archspec.spec import ModelSpec
from compiler.build import build_graph
from compiler.cost.closed_form import CostPlan, total
from compiler.device.blocks import decompose
from zoo import Zoo

SpecMaker = Callable[..., ModelSpec]
SPECS = Path(__file__).parents[3] / "specs"
MIXED = """
- {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}
- repeat: 2
  layers: [{token_mixer: pool, channel_mixer: mlp}]
- loop: 2
  layers: [{token_mixer: pool, channel_mixer: none}]
- {token_mixer: {parallel: [pool, {kind: attention, n_heads: 4}]}, channel_mixer: none}
- fit: {n_groups: 4, n_latents: 2, d_latent: 16, schedule: "(1)1(1)", local: {token_mixer: pool}, global: {token_mixer: pool}}
"""


def in_layers(spec: ModelSpec, length: int) -> Counter[str]:
    """Closed-form work inside the layers, by what it is."""
    costs = CostPlan(build_graph(spec), length).costs()
    inside = total(cost for name, cost in costs.items() if name.startswith("layers."))
    return Counter(
        flops=inside.flops, params=inside.params, moved=inside.bytes_moved, saved=inside.activation_bytes
    )


def test_mixers_loops_and_fit_blocks_are_blocks(make_spec: SpecMaker, zoo: Zoo) -> None:
    found = decompose(make_spec(MIXED), zoo)
    assert [(path, block.what) for path, block in found.blocks] == [
        ("layers[0].token_mixer", "attention"),
        ("layers[0].channel_mixer", "mlp"),
        ("layers[1].layers[0].token_mixer", "pool"),
        ("layers[1].layers[0].channel_mixer", "mlp"),
        ("layers[1].layers[0].token_mixer", "pool"),
        ("layers[1].layers[0].channel_mixer", "mlp"),
        ("layers[2]", "loop of 2 turns"),
        ("layers[3].token_mixer", "pool and attention in parallel"),
        ("layers[4]", "fit (1)1(1)"),
    ]
    assert len(found.unique) == 6


SHIPPED = [
    "hybrids/fit_of_mixers", "hybrids/local_combiner_routing", "hybrids/parallel_heads",
    "hybrids/hydra_attention_bidirectional", "papers/hydra_vit", "papers/fit_encoder",
]  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_blocks_and_base_are_the_whole_model(name: str, zoo: Zoo) -> None:
    """Nothing of the model is left out or counted twice; the frame's own parts stay outside."""
    spec = compiler.load_spec(SPECS / f"{name}.yaml")
    found = decompose(spec, zoo)
    sums: Counter[str] = Counter()
    for _, block in found.blocks:
        sums += in_layers(block.copies(1), found.length)
    assert sums == in_layers(spec, spec.input.seq_len)
    assert +in_layers(found.base.copies(0), spec.input.seq_len) == Counter()
    whole = total(CostPlan(build_graph(spec)).costs().values()).params
    base = total(CostPlan(build_graph(found.base.copies(0))).costs().values()).params
    assert base + sums["params"] == whole


@pytest.mark.parametrize("name", SHIPPED)
def test_copies_are_untied(name: str, zoo: Zoo) -> None:
    spec = compiler.load_spec(SPECS / f"{name}.yaml")
    for block in decompose(spec, zoo).unique:
        one, four = (in_layers(block.copies(n), block.copies(n).input.seq_len) for n in (1, 4))
        assert four == Counter({what: 4 * n for what, n in one.items()})


@pytest.mark.parametrize(("name", "what"), [("encoder_decoder", "encoder"), ("fit_denoiser", "condition")])
def test_what_reads_a_second_stream_is_not_taken_apart(name: str, what: str, zoo: Zoo) -> None:
    with pytest.raises(SpecError, match=f"model with an? {what} is not predicted from blocks"):
        decompose(compiler.load_spec(SPECS / "hybrids" / f"{name}.yaml"), zoo)


def test_a_name_covers_what_the_time_depends_on(make_spec: SpecMaker, zoo: Zoo) -> None:
    layer = "- {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}"

    def names(*overrides: str, layers: str = layer) -> set[str]:
        return {block.hash for block in decompose(make_spec(layers, *overrides), zoo).unique}

    same = names()
    assert names("name=other", "input.vocab_size=99", "head={kind: lm, tied: true}") == same
    assert names(layers="- repeat: 3\n  layers:\n    " + layer) == same
    for change in ("d_model=32", "input.seq_len=48", "causal=false", "residual=post", "norm=layernorm"):
        assert not names(change) & same, change
    assert len(names("layers[0].token_mixer.window=8") & same) == 1  # the mlp is as it was
