"""Routing Transformer's models in formulas: what ``test_papers.py`` and ``test_papers_routing.py`` compare with."""

from __future__ import annotations


def attention(d: int, n_heads: int, max_rel: int | None, n_tables: int = 2) -> int:
    """Four maps without bias, the map of every head, and tables of ``2 max_rel + 1`` lags for keys and values.

    There is a pair of tables for routed heads and one for local heads.
    """
    d_head = d // n_heads
    lags = 0 if max_rel is None else n_tables * 2 * (2 * max_rel + 1) * d_head
    return 4 * d**2 + d_head**2 + lags


def geglu(d: int, d_ff: int) -> int:
    return 3 * d * d_ff


def relu(d: int, d_ff: int) -> int:
    return 2 * d * d_ff + d_ff + d


def norms(d: int) -> int:
    return 4 * d


def words(V: int, d: int, d_embed: int) -> int:
    """A table and a dense map going in; going out a dense map where the widths differ, and a matrix with bias."""
    out = 0 if d_embed == d else d * d_embed + d_embed
    return V * d_embed + d_embed * d + d + out + V * d_embed + V


def text(
    *, n_layers: int, d: int, d_embed: int, d_ff: int, n_heads: int, max_rel: int, V: int, n_local: int = 0
) -> int:
    """``n_layers``, of which ``n_local`` have local heads alone; post-norm, so no final norm."""
    local = attention(d, n_heads, max_rel, n_tables=1)
    mixed = attention(d, n_heads, max_rel)
    rest = geglu(d, d_ff) + norms(d)
    return n_local * local + (n_layers - n_local) * mixed + n_layers * rest + words(V, d, d_embed)


def image(*, n_layers: int, d: int, n_heads: int, axes: tuple[int, ...], n_tables: int) -> int:
    """No relative positions; a table of 256 bytes per channel, vectors per coordinate, 256 logits with bias."""
    layer = attention(d, n_heads, None) + relu(d, 2048) + norms(d)
    return n_layers * layer + n_tables * 256 * d + sum(axes) * d + 256 * d + 256


def encoder_decoder(
    *,
    n_encoder: int,
    n_decoder: int,
    n_local: int,
    d: int,
    d_embed: int,
    d_ff: int,
    n_heads: int,
    max_rel: int,
    V: int = 32768,
) -> int:
    """The first ``n_local`` layers of both sides have local heads alone; attention across has no tables."""
    local = attention(d, n_heads, max_rel, n_tables=1)
    mixed = attention(d, n_heads, max_rel)
    across = attention(d, n_heads, None) + 2 * d  # and a norm
    alike = (n_encoder + n_decoder - 2 * n_local) * mixed + 2 * n_local * local
    rest = (n_encoder + n_decoder) * (geglu(d, d_ff) + norms(d))
    return V * d + alike + rest + n_decoder * across + words(V, d, d_embed)


WIDE = {"d": 1024, "d_embed": 1024, "d_ff": 3072, "n_heads": 8, "V": 256}
FACTORISED = {"d": 1024, "d_embed": 256, "d_ff": 3072, "n_heads": 16, "V": 267735}
TRANSLATE = {
    "n_encoder": 6, "n_decoder": 6, "n_local": 4, "d": 1024, "d_embed": 1024, "d_ff": 4096, "n_heads": 16, "max_rel": 513
}  # fmt: skip
SUMMARY = {"n_encoder": 4, "n_heads": 8, "max_rel": 257}
PG19 = {"d": 1032, "d_embed": 1032, "d_ff": 4096, "n_heads": 8, "max_rel": 513, "V": 98304}

# No count is published. The first figure is that of the spec, the second that of the published configuration.
ROUTING = {
    "routing_enwik8_8k": (171_707_648, text(n_layers=12, max_rel=513, **WIDE)),
    "routing_enwik8_12k": (168_561_920, text(n_layers=12, max_rel=257, **WIDE)),
    "routing_wikitext103_4k": (332_509_911, text(n_layers=14, max_rel=513, **FACTORISED)),
    "routing_wikitext103_1k": (415_925_463, text(n_layers=20, max_rel=513, **FACTORISED)),
    "routing_pg19": (583_323_816, text(n_layers=22, n_local=21, **PG19)),
    "routing_pg19_local": (617_512_944, text(n_layers=24, n_local=24, **PG19)),
    "routing_cifar10": (102_063_360, image(n_layers=12, d=1024, n_heads=8, axes=(32, 32, 3), n_tables=3)),
    "routing_imagenet64": (202_779_904, image(n_layers=24, d=1024, n_heads=16, axes=(64, 64, 3), n_tables=3)),
    "routing_mnist": (38_291_712, image(n_layers=12, d=512, n_heads=4, axes=(28, 28), n_tables=1)),
    **{
        f"routing_translate_{length}": (330_476_544, encoder_decoder(**TRANSLATE))
        for length in ("512", "1k", "2k", "4k", "8k")
    },
    "routing_meena_2k": (
        426_487_296,
        encoder_decoder(
            n_encoder=6, n_decoder=15, n_local=5, d=1024, d_embed=512, d_ff=3072, n_heads=8, max_rel=513
        ),
    ),
    "routing_pubmed_10k": (
        65_421_056, encoder_decoder(n_decoder=10, n_local=2, d=256, d_embed=256, d_ff=3072, **SUMMARY),
    ),
    "routing_arxiv_24k": (
        340_184_064, encoder_decoder(n_decoder=8, n_local=0, d=1024, d_embed=1024, d_ff=4096, **SUMMARY),
    ),
}  # fmt: skip
