"""Inputs of the tests of routing's operations: heads, centroids, tables of lags, paddings; and how to compare."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo.ops import router
from zoo.ops.shaw import Relative

SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
LENGTHS = pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 37, 63, 64, 65])  # blocks have 32 at least
PADDINGS = ("none", "right", "left", "holes", "all_of_one_row")
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
CLOSE_GRADIENT = {"rtol": 1e-10, "atol": 1e-11}


def heads(length: int, *, width: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    q, k, v = torch.randn(3, 2, 2, length, width, generator=generator, dtype=torch.float64).unbind()
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def centroids(n_clusters: int, *, width: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(n_clusters)
    return torch.randn(2, n_clusters, width, generator=generator, dtype=torch.float64)


def tables(max_rel: int, *, width: int = 3) -> Relative:
    generator = torch.Generator().manual_seed(max_rel)
    both = torch.randn(2, 2 * max_rel + 1, width, generator=generator, dtype=torch.float64)
    return Relative(*(t.requires_grad_() for t in both))


def padding(kind: str, length: int) -> Tensor | None:
    position = torch.arange(length)
    return {
        "none": None,
        "right": position < torch.tensor([[length], [max(1, length // 2)]]),
        "left": position >= torch.tensor([[0], [length // 2]]),
        "holes": (position % 3 != 1).expand(2, length),
        "all_of_one_row": position < torch.tensor([[length], [0]]),
    }[kind]


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
