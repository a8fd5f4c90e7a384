"""What is alive while a model runs: bytes of all tensors that operations made, and the largest one."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


class LiveTensors(TorchDispatchMode):
    """``now`` and ``peak`` bytes of storages, ``largest`` of them in entries; what was there before counts not."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.largest = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {
            t.untyped_storage()._cdata for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        }
        made = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(made):
            if (
                isinstance(tensor, Tensor)
                and tensor.untyped_storage()._cdata not in before | self._sizes.keys()
            ):
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                self.largest = max(self.largest, storage.nbytes() // tensor.element_size())
                weakref.finalize(storage, self._gone, storage._cdata)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
