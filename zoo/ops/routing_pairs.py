"""Pairs of a query and a key that routing attention multiplies, in one head of one sequence: (done, needed).

What is done is what the blocks of ``zoo/ops/routing.py`` and ``top_w.py`` hold; what is needed is inside
the pattern. A relative lag's vector counts as one more key of each query. What clusters need depends on the
data; here they are equally large.

Letters: H heads, L length, C clusters, w window.
"""

from __future__ import annotations

from zoo.ops.routing import band_layout
from zoo.ops.shaw import lags_in_reach
from zoo.ops.softmax_attention import pairs_computed, pairs_needed

Pairs = tuple[int, int]


def cluster_pairs(
    L: int, w: int, *, n_heads: int, n_clusters: int, causal: bool, max_rel: int | None
) -> Pairs:
    """Of all heads: tokens in blocks of the list that is sorted by head and cluster."""
    w = min(w, L)
    n, size, span = band_layout(n_heads * L, w, causal=causal)
    lags = _lags(w, max_rel, causal=causal)
    few, rest = divmod(L, n_clusters)  # members of most clusters, and how many clusters have one more
    members = [(few, n_clusters - rest), (few + 1, rest)]
    needed = sum(many * pairs_needed(m, w, causal=causal) for m, many in members if m)
    return n * size * (span + lags), n_heads * (needed + L * lags)


def top_w_pairs(L: int, w: int, *, n_heads: int, n_clusters: int, max_rel: int | None) -> Pairs:
    """Of all heads: each centroid's tokens among themselves."""
    w = min(w, L)
    pairs = n_heads * n_clusters * w * (w + _lags(w, max_rel, causal=False))
    return pairs, pairs


def local_pairs(L: int, w: int, *, n_heads: int, causal: bool, max_rel: int | None) -> Pairs:
    """Of all heads: a sliding window, by another path where there are relative positions."""
    needed = n_heads * pairs_needed(L, w, causal=causal)
    if max_rel is None:
        return n_heads * pairs_computed(L, w, causal=causal), needed
    w = min(w, L)
    n, size, span = band_layout(n_heads * L, w, causal=causal)
    lags = _lags(w, max_rel, causal=causal)
    return n * size * (span + lags), needed + n_heads * L * lags


def last_pairs(w: int, *, n_earlier: int, n_heads: int, max_rel: int | None) -> Pairs:
    """Of all heads: a decoded token and the last ``w`` of its list, where ``n_earlier`` came before it."""
    lags = _lags(w, max_rel, causal=True)
    return n_heads * (w + lags), n_heads * (min(w, n_earlier + 1) + lags)


def _lags(window: int, max_rel: int | None, *, causal: bool) -> int:
    return 0 if max_rel is None else lags_in_reach(max_rel, (0 if causal else window - 1, window - 1))
