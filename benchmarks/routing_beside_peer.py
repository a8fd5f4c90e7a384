"""Causal routing beside ``routing-transformer``'s k-means attention: equal heads, clusters and windows.

    pip install --target DIR --no-deps routing-transformer==1.6.1 local-attention==1.11.2 hyper-connections \
        product-key-memory colt5-attention mixture-of-experts einops
    python benchmarks/routing_beside_peer.py --peers DIR [--lengths 1024,...] [--rounds 7] [--save]

The mixing core alone, without projections: q, k, v of (1, heads, L, width) go in. Both run once per round,
one after the other; the first round is thrown away. A ratio is the peer's time over ours, the median of the
rounds' paired ratios with the 90 % interval of a bootstrap. Forward is inference (eval mode, no gradients);
forward and backward is training, with the commitment loss and what the centroids learn from on both sides.
The two compute different things: the peer's clusters pick their tokens from the whole sequence, ours do not.
"""

from __future__ import annotations

import argparse
import importlib
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from record import provenance, save
from torch import Tensor

from zoo.ops.router import cluster_statistics, commitment, nearest, normalised, router_scores
from zoo.ops.routing import cluster_attention

N_HEADS, D_HEAD, WINDOW = 8, 64, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peers", required=True, help="the folder with routing_transformer in it")
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384")
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--rounds", type=int, default=7, help="counted ones, after one that is not")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.peers)
    peer = importlib.import_module("routing_transformer.routing_transformer").KmeansAttention
    torch.set_num_threads(arguments.threads)
    rows = [
        measured(peer, length, arguments.window, shared=shared, training=training, rounds=arguments.rounds)
        for shared in (True, False)
        for training in (False, True)
        for length in map(int, arguments.lengths.split(","))
    ]
    sizes = {"n_heads": N_HEADS, "d_head": D_HEAD, "window": arguments.window, "threads": arguments.threads}
    text = table(rows)
    print(text)
    if arguments.save:
        save("routing_beside_peer", {**provenance(), **sizes, "rows": rows}, text)


def measured(
    peer: Callable[..., Any], length: int, window: int, *, shared: bool, training: bool, rounds: int
) -> dict[str, Any]:
    """Both at one length, paired round by round."""
    torch.manual_seed(0)
    n_clusters = max(1, length // window)
    q, k, v = (torch.randn(1, N_HEADS, length, D_HEAD, requires_grad=training) for _ in range(3))
    theirs = peer(n_clusters, window, N_HEADS, D_HEAD, causal=True, shared_qk=shared).train(training)
    centroids = normalised(torch.randn(N_HEADS, n_clusters, D_HEAD))

    def run_ours() -> tuple[Tensor, Tensor]:
        seen = normalised(q)
        own = nearest(router_scores(seen, centroids))
        pattern = {"n_clusters": n_clusters, "window": window, "causal": True, "self_if_alone": shared}
        y = cluster_attention(q, q if shared else k, v, own, **pattern)
        if not training:
            return y, y.new_zeros(())
        cluster_statistics(seen, own, n_clusters=n_clusters)
        return y, 1e-4 * commitment(seen, own, centroids)

    def run_theirs() -> tuple[Tensor, Tensor]:
        return theirs(q, q if shared else k, v)

    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    with torch.set_grad_enabled(training):
        for _ in range(rounds + 1):
            for name, run in (("ours", run_ours), ("theirs", run_theirs)):
                start = time.perf_counter()
                y, loss = run()
                if training:
                    (y.sum() + loss).backward()
                seconds[name].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(seconds["ours"][1:], seconds["theirs"][1:])]
    low, high = interval(ratios)
    row = {
        "shared_qk": shared, "phase": "forward+backward" if training else "forward", "length": length,
        "clusters": n_clusters, "ours_ms": round(1e3 * statistics.median(seconds["ours"][1:]), 2),
        "theirs_ms": round(1e3 * statistics.median(seconds["theirs"][1:]), 2),
        "ratio": round(statistics.median(ratios), 3), "low": round(low, 3), "high": round(high, 3),
    }  # fmt: skip
    print(row, file=sys.stderr)
    return row


def interval(ratios: list[float]) -> tuple[float, float]:
    """The 90 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(1000))
    return medians[50], medians[949]


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| keys | phase | L | clusters | ours ms | theirs ms | theirs / ours | 90 % |", "|---" * 8 + "|"]
    lines += [
        f"| {'shared' if r['shared_qk'] else 'own'} | {r['phase']} | {r['length']} | {r['clusters']} | "
        f"{r['ours_ms']:.1f} | {r['theirs_ms']:.1f} | {r['ratio']:.2f} | {r['low']:.2f} to {r['high']:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
