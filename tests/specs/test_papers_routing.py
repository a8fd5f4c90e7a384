"""Routing Transformer's published configurations: figures with their centroids, and heads by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from papers_routing import ROUTING

import compiler
from archspec.spec import ModelSpec
from compiler.graph import ops
from zoo.token_mixers.routing import Routing

PAPERS = Path(__file__).parents[2] / "specs" / "papers"


def spec_of(name: str) -> ModelSpec:
    return compiler.load_spec(PAPERS / f"{name}.yaml")


def mixers(name: str) -> list[Routing.Config]:
    """The mixer of every layer."""
    graph = compiler.build_graph(spec_of(name))
    found = [op.config for _, op in ops(graph) if op.kind == "token_mixer"]
    assert all(isinstance(config, Routing.Config) for config in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        ("routing_enwik8_8k", 171.8, 1),
        ("routing_cifar10", 102, 0),
        ("routing_imagenet64", 203, 0),
        ("routing_pg19", 583.3, 1),
    ],
)
def test_figures_of_the_authors_code(name: str, millions: float, digits: int) -> None:
    """With the centroids, which are variables there and buffers here."""
    profile = compiler.profile(spec_of(name))
    centroids = sum(row.cost.buffer_bytes for row in profile.rows) // 4
    assert round((profile.params + centroids) / 1e6, digits) == millions


HEADS = {  # by layer: routed and local heads, clusters, tokens of a cluster, local window
    "routing_enwik8_8k": 12 * [(4, 4, 16, 512, 512)],
    "routing_enwik8_12k": 12 * [(4, 4, 48, 256, 256)],
    "routing_wikitext103_4k": 14 * [(8, 8, 8, 512, 512)],
    "routing_wikitext103_1k": 20 * [(8, 8, 2, 512, 512)],
    "routing_pg19": [*21 * [(0, 8, 0, 0, 512)], (2, 6, 16, 512, 512)],
    "routing_pg19_local": 24 * [(0, 8, 0, 0, 512)],
    "routing_cifar10": 12 * [(4, 4, 6, 512, 512)],
    "routing_imagenet64": 24 * [(4, 12, 8, 2048, 512)],
    "routing_mnist": 12 * [(2, 2, 7, 112, 112)],
    "routing_translate_encoder": [*4 * [(0, 16, 0, 0, 512)], *2 * [(2, 14, 8, 512, 512)]],
}


def test_every_configuration_is_listed() -> None:
    assert set(HEADS) == set(ROUTING) == {path.stem for path in PAPERS.glob("routing_*.yaml")}


@pytest.mark.parametrize("name", HEADS)
def test_heads_clusters_and_windows_by_layer(name: str) -> None:
    """Where no head is routed, no cluster counts."""
    found = []
    for config in mixers(name):
        clusters = (config.n_clusters, config.cluster_window) if config.routed_heads else (0, 0)
        found.append((config.routed_heads, config.local_heads, *clusters, config.window))
    assert found == HEADS[name]
    spec = spec_of(name)
    assert all(c.share_qk == (c.routed_heads > 0 and spec.causal) for c in mixers(name))


@pytest.mark.parametrize("name", [name for name in HEADS if "imagenet" not in name])
def test_clusters_cover_the_sequence_once(name: str) -> None:
    spec = spec_of(name)
    for config in mixers(name):
        if config.routed_heads:
            assert config.n_clusters * config.cluster_window == spec.input.seq_len
