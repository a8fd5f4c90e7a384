"""What components with centroids share: how these learn, and that they stay precise.

Centroids (heads, clusters, width) are a buffer: a moving average of the vectors that chose them (Roy et al.
2021, arXiv:2003.05997), updated after the optimizer step. They follow a module to another device, and to
float64, never below float32, since their steps are small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from zoo.contract import Component
from zoo.ops.router import moved


class WithCentroids(Component):
    """Stands before ``Mixer`` or ``Transfer`` among a component's bases.

    Its configuration has ``decay`` and ``freeze_router``. Without the buffer ``centroids`` nothing is learnt.
    """

    config: Any

    @torch.no_grad()
    def apply_statistics(self, statistics: Tensor) -> None:
        """Sums and numbers of the vectors that chose each centroid -> centroids moved towards their means.

        Under ``torch.distributed`` the sums are those of all processes: each of them must call this.
        """
        if not self.config.freeze_router:
            centroids = self.get_buffer("centroids")
            centroids.copy_(moved(centroids, statistics, decay=self.config.decay))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        kept = dict(self.named_buffers(recurse=False)).get("centroids")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if kept is not None and (now := self.get_buffer("centroids")).dtype.itemsize < 4:
            self.centroids = kept.to(now.device)
        return self
