"""Combiner's published configurations: what stands in every layer, and how little of all pairs it computes."""

from __future__ import annotations

from pathlib import Path

import pytest
from papers_combiner import COMBINER

import compiler
from compiler.graph import ops
from zoo.token_mixers.combiner import Combiner

PAPERS = Path(__file__).parents[2] / "specs" / "papers"


def mixers(name: str) -> list[Combiner.Config]:
    """The mixer of every layer."""
    graph = compiler.build_graph(compiler.load_spec(PAPERS / f"{name}.yaml"))
    found = [op.config for _, op in ops(graph) if op.kind == "token_mixer"]
    assert all(isinstance(config, Combiner.Config) for config in found)
    return found  # type: ignore[return-value]


LAYERS = {  # layers, heads, variant, span, biases
    "combiner_fixed_lm": (12, 12, "fixed", 128, True),
    "combiner_mixture_lm": (12, 12, "mixture", 128, True),
    "combiner_axial_lm": (12, 12, "axial", 128, True),
    "combiner_fixed_lm_8k": (12, 12, "fixed", 128, True),
    "combiner_axial_lm_8k": (12, 12, "axial", 128, True),
    "combiner_cifar10_fixed": (6, 8, "fixed", 64, False),
    "combiner_cifar10_logsparse": (6, 8, "logsparse", 64, False),
    "combiner_cifar10_axial": (6, 8, "mixture", 32, False),
    "combiner_cifar10_mixture": (6, 8, "mixture", 32, False),
    "combiner_cifar10_mixture_12_layers": (12, 8, "mixture", 32, False),
}


def test_every_combiner_is_listed() -> None:
    assert set(LAYERS) == set(COMBINER) == {path.stem for path in PAPERS.glob("combiner_*.yaml")}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_the_published_ones(name: str) -> None:
    n_layers, *rest = LAYERS[name]
    found = [(c.n_heads, c.variant, c.span, c.qkv_bias and c.out_bias) for c in mixers(name)]
    assert found == n_layers * [tuple(rest)]


def test_only_the_rows_that_are_projected_add_parameters() -> None:
    """Two matrices, two biases and a LayerNorm in each of 12 layers of width 768."""
    added = COMBINER["combiner_axial_lm"][0] - COMBINER["combiner_fixed_lm"][0]
    assert added == 12 * (2 * (768**2 + 768) + 2 * 768)
    assert {config.row_summary for config in mixers("combiner_axial_lm")} == {"proj"}


SHARE = {
    "combiner_fixed_lm": 0.142,
    "combiner_mixture_lm": 0.562,
    "combiner_axial_lm": 0.203,
    "combiner_fixed_lm_8k": 0.047,
    "combiner_axial_lm_8k": 0.062,
    "combiner_cifar10_fixed": 0.074,
    "combiner_cifar10_logsparse": 0.024,
    "combiner_cifar10_axial": 0.167,
    "combiner_cifar10_mixture": 0.333,
    "combiner_cifar10_mixture_12_layers": 0.333,
}


@pytest.mark.parametrize("name", LAYERS)
def test_share_of_the_products_of_causal_attention(name: str) -> None:
    """Logits and values of tokens and summaries, and what makes the summaries, beside L (L + 1) / 2 pairs."""
    spec = compiler.load_spec(PAPERS / f"{name}.yaml")
    L = spec.input.seq_len
    work = mixers(name)[0].pattern(causal=True).work(L)
    assert round(work.products / (L * (L + 1)), 3) == SHARE[name]
