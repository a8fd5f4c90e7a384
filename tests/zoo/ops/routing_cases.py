"""Inputs of the tests of routing's operations: centroids, tables of lags, clusters; and how to compare."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.ops import router
from zoo.ops.shaw import Relative

LENGTHS = pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 37, 63, 64, 65])  # blocks have 32 at least
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
CLOSE_GRADIENT = {"rtol": 1e-10, "atol": 1e-11}


def centroids(n_clusters: int, *, width: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(n_clusters)
    return torch.randn(2, n_clusters, width, generator=generator, dtype=torch.float64)


def tables(max_rel: int, *, width: int = 3) -> Relative:
    generator = torch.Generator().manual_seed(max_rel)
    both = torch.randn(2, 2 * max_rel + 1, width, generator=generator, dtype=torch.float64)
    return Relative(*(t.requires_grad_() for t in both))


def clusters_of(q: Tensor, n_clusters: int, mask: Tensor | None = None) -> Tensor:
    scores = router.router_scores(router.normalised(q.detach()), centroids(n_clusters))
    return router.nearest(scores, mask)


def expect_equal(got: Tensor, want: Tensor, inputs: list[Tensor], keep: Tensor | None) -> None:
    """Values and gradients at real tokens."""
    real = torch.ones(()) if keep is None else keep[:, None, :, None]
    torch.testing.assert_close(got * real, want * real, **CLOSE)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=got.dtype) * real
    gradients = [torch.autograd.grad((y * weight).sum(), inputs) for y in (got, want)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, **CLOSE_GRADIENT)
