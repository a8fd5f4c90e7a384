"""Routing Transformer's published configurations: figures with their centroids, and heads by layer."""

from __future__ import annotations

from pathlib import Path

import pytest
from papers_routing import ROUTING

import compiler
from archspec.spec import ModelSpec
from compiler.graph import ops
from zoo.token_mixers.routing import Routing
from zoo.transfers.routing import RoutingTransfer

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
}
# With an encoder: lengths of source and target; layers of encoder and decoder, of which the first have local heads
# alone; then as above.
SEQ2SEQ = {
    **{
        f"routing_translate_{name}": ((L, L), (6, 6, 4), (2, 14, L // 512, 512, 512))
        for name, L in (("512", 512), ("1k", 1024), ("2k", 2048), ("4k", 4096), ("8k", 8192))
    },
    "routing_meena_2k": ((2048, 512), (6, 15, 5), (2, 6, 8, 512, 512)),
    "routing_pubmed_10k": ((10240, 512), (4, 10, 2), (4, 4, 40, 256, 256)),
    "routing_arxiv_24k": ((24064, 512), (4, 8, 0), (2, 6, 47, 512, 512)),
}


def test_every_configuration_is_listed() -> None:
    assert set(HEADS) | set(SEQ2SEQ) == set(ROUTING) == {path.stem for path in PAPERS.glob("routing_*.yaml")}


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


def row(config: Routing.Config | RoutingTransfer.Config) -> tuple[int, int, int, int, int]:
    clusters = (config.n_clusters, config.cluster_window) if config.routed_heads else (0, 0)
    return config.routed_heads, config.n_heads - config.routed_heads, *clusters, config.window


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_streams_and_heads_of_the_models_with_an_encoder(name: str) -> None:
    """Across, heads are as in the layer itself; the encoder routes as published, the decoder causally."""
    (source, target), (n_encoder, n_decoder, n_local), mixed = SEQ2SEQ[name]
    spec = spec_of(name)
    assert spec.encoder is not None
    assert (spec.encoder.input.seq_len, spec.input.seq_len) == (source, target)
    found: dict[tuple[str, bool], list[Routing.Config | RoutingTransfer.Config]] = {}
    for _, op in ops(compiler.build_graph(spec)):
        if isinstance(op.config, (Routing.Config, RoutingTransfer.Config)):
            assert op.stream is not None
            found.setdefault((op.kind, op.stream.of_encoder), []).append(op.config)
    local = (0, sum(mixed[:2]), 0, 0, mixed[4])
    wanted = [*n_local * [local], *(n_encoder - n_local) * [mixed]]
    assert [row(c) for c in found["token_mixer", True]] == wanted
    wanted = [*n_local * [local], *(n_decoder - n_local) * [mixed]]
    assert [row(c) for c in found["token_mixer", False]] == wanted
    assert [row(c) for c in found["cross", False]] == wanted
    for (kind, of_encoder), configs in found.items():
        for config in configs:
            assert config.compat == ("official" if config.routed_heads else "none")
            if isinstance(config, Routing.Config) and config.routed_heads:
                assert config.selection == ("top_w" if of_encoder else "causal"), kind
                assert config.share_qk != of_encoder
    _, _, n_clusters, window, _ = mixed
    assert n_clusters * window == (2 * source if "meena" in name else source)


@pytest.mark.parametrize(
    "name", ["routing_translate_4k", "routing_meena_2k", "routing_pubmed_10k", "routing_arxiv_24k"]
)
def test_the_comment_has_the_count_and_the_centroids(name: str) -> None:
    profile = compiler.profile(spec_of(name))
    centroids = sum(row.cost.buffer_bytes for row in profile.rows) // 4
    comment = " ".join((PAPERS / f"{name}.yaml").read_text("utf-8").partition("\narchspec:")[0].split("\n# "))
    assert f"{profile.params:,} parameters, and {centroids:,} numbers of centroids" in comment
