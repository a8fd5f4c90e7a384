"""The models of papers have the published sizes: by closed form, and built (on the meta device, without memory)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compiler
from compiler.passes.lower import lower
from zoo import load_zoo

PAPERS = Path(__file__).parents[2] / "specs" / "papers"
COUNTS = {
    "combiner_fixed_lm": 111_236_864,
    "hydra_bert": 112_086_712,
    "hydra_bert_12_layers": 69_992_352,
    "mamba2_130m": 128_989_632,
    "routing_pg19": 583_323_816,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items(), ids=COUNTS.keys())
def test_parameters(name: str, count: int) -> None:
    spec = compiler.load_spec(PAPERS / f"{name}.yaml")
    assert compiler.profile(spec).params == count
    zoo = load_zoo()
    with torch.device("meta"):
        built = lower(compiler.build_graph(spec, zoo=zoo), zoo, seed=0)
    assert sum(p.numel() for p in built.parameters()) == count
    assert f"{count:,}" in (PAPERS / f"{name}.yaml").read_text("utf-8")


def test_routing_pg19_layer_by_layer() -> None:
    """The formula by hand: the tables of relative positions and the map of each head are in it."""
    d, d_ff, d_head, n_words, n_lags = 1032, 4096, 129, 98_304, 2 * 513 + 1
    table = 2 * n_lags * d_head  # of keys and values, shared by the heads of a group
    layer = 4 * d * d + d_head**2 + table + 3 * d * d_ff + 2 * 2 * d
    layers = 22 * layer + table  # the last layer has routed heads beside local ones
    assert layers == 379_260_000
    around = n_words * d + (d * d + d) + n_words * d + n_words  # table, dense map, output with bias
    assert layers + around == COUNTS["routing_pg19"]
    profile = compiler.profile(compiler.load_spec(PAPERS / "routing_pg19.yaml"))
    assert profile.params_embedding == n_words * d
