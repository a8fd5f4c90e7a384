"""What a router of tokens does: compares them with centroids, and gathers what the centroids learn from.

After Routing Transformer (Roy et al. 2021, arXiv:2003.05997), which runs spherical k-means online. Vectors
and centroids are compared normalised, in fp32 at least; no gradient passes through a comparison.

Shapes: B batch, H heads, L length, K head width, C clusters. A mask is (B, L), True at real tokens; padding
belongs to cluster C, which does not exist.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def normalised(x: Tensor) -> Tensor:
    """Each vector with mean 0 and variance 1, in fp32 at least: what routers compare and average."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def router_scores(x: Tensor, centroids: Tensor) -> Tensor:
    """Normalised x (B, H, L, K), centroids (H, C, K) of any length -> (B, H, L, C), never below fp32."""
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):  # meta has none
        return x.detach() @ normalised(centroids).to(x.dtype).transpose(-1, -2)


def nearest(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, H, L, C) -> each token's cluster (B, H, L), the first of equals; C for padding."""
    cluster = scores.argmax(-1)
    return cluster if mask is None else cluster.masked_fill(~mask[:, None], scores.shape[-1])


def cluster_statistics(x: Tensor, cluster: Tensor, *, n_clusters: int) -> Tensor:
    """Normalised x (B, H, L, K), cluster (B, H, L) -> (H, C, K + 1): sums of members, their numbers."""
    H, K = x.shape[1], x.shape[-1]
    members = torch.cat([x.detach(), torch.ones_like(x[..., :1])], dim=-1).reshape(-1, K + 1)
    sums = members.new_zeros(H * (n_clusters + 1), K + 1).index_add(
        0, group_index(cluster, n_clusters), members
    )
    return sums.view(H, n_clusters + 1, K + 1)[:, :n_clusters]


def moved(centroids: Tensor, statistics: Tensor, *, decay: float) -> Tensor:
    """Centroids (H, C, K), sums and numbers (H, C, K + 1) -> centroids 1 - decay of the way to the means.

    What nothing chose stays. Under ``torch.distributed`` the statistics of all processes are summed first,
    so every process must ask, and every one gets the same.
    """
    if dist.is_available() and dist.is_initialized():
        statistics = statistics.clone()
        dist.all_reduce(statistics)
    total, number = statistics[..., :-1], statistics[..., -1:]
    means = (total / number.clamp(min=1)).to(centroids)
    return torch.where(number > 0, centroids.lerp(means, 1 - decay), centroids)


def commitment(x: Tensor, cluster: Tensor, centroids: Tensor) -> Tensor:
    """Mean square distance of real tokens' normalised x from their centroids, per coordinate: a scalar."""
    _, n_clusters, K = centroids.shape
    table = F.pad(centroids.to(x.dtype), (0, 0, 0, 1)).flatten(0, 1)  # padding has a centroid of zeros
    distance = x - table.index_select(0, group_index(cluster, n_clusters)).view(x.shape)
    real = (cluster < n_clusters).to(x.dtype)
    return (distance.square().sum(-1) * real).sum() / (K * real.sum()).clamp(min=1)


def group_index(cluster: Tensor, n_clusters: int) -> Tensor:
    """(B, H, L) -> flat numbers of head and cluster, the cluster of padding included."""
    head = torch.arange(cluster.shape[1], device=cluster.device)[:, None] * (n_clusters + 1)
    return (cluster + head).flatten()
