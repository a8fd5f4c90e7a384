"""What a computation holds in memory: every tensor that it makes, from its making until nothing refers to it.

What a kernel uses inside and gives back is not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Elements of the largest tensor (``largest``), and bytes of all at the greatest moment (``peak``).

    Views count once, and tensors that were there ``before`` not at all.
    """

    def __init__(self, before: tuple[Tensor, ...] = ()):
        super().__init__()
        self.largest = self.now = self.peak = 0
        self.where = ""  # the operation that made the largest, and its shape
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet(
            t.untyped_storage() for t in before
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor, str(func))
        return out

    def _see(self, tensor: Tensor, name: str) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._release, size)
        self.now += size
        self.peak = max(self.peak, self.now)
        if (n := size // tensor.element_size()) > self.largest:
            self.largest, self.where = n, f"{name} {tuple(tensor.shape)}"

    def _release(self, size: int) -> None:
        self.now -= size
