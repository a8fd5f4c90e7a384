"""One pass over the operations that torch dispatches: FLOPs, elements, bytes, and every storage's life.

``Tracer`` is a ``TorchDispatchMode``. It is made for meta tensors, which have shapes and no data, and works
on real ones too. Fused attention stays one operation under ``FusedAttention`` (``fused_attention.py``). An
operation in no table is an error, never zero.

Bytes are those of an eager run: an operation reads its inputs and writes its outputs; a view moves nothing.
A storage lives from the operation that makes it until the last tensor on it goes, those that autograd keeps
included, so the greatest sum of living storages is the peak that an allocator would see.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode

from compiler.cost.op_flops import FLOPS, Formula, recomputed_flops
from compiler.cost.zero_ops import acts_on_elements, is_zero_cost


class UnknownOperation(Exception):
    """An operation that no table knows; ``name`` is the dispatcher's, such as ``aten::linalg_solve``."""

    def __init__(self, name: str):
        super().__init__(f"no table knows the operation '{name}'")
        self.name = name


@dataclass
class Tally:
    """What was counted. FLOPs are matmul-class; ``recomputed`` are those that fused kernels add backward."""

    flops: int = 0
    recomputed: int = 0
    elements: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    n_operations: int = 0
    by_op: Counter[str] = field(default_factory=Counter)  # FLOPs

    def add(self, other: Tally, *, times: int = 1) -> None:
        """Count ``other``, ``times`` over."""
        self.flops += times * other.flops
        self.recomputed += times * other.recomputed
        self.elements += times * other.elements
        self.bytes_read += times * other.bytes_read
        self.bytes_written += times * other.bytes_written
        self.n_operations += times * other.n_operations
        for name, flops in other.by_op.items():
            self.by_op[name] += times * flops


class Tracer(TorchDispatchMode):
    """Counts into ``tally``, which may be exchanged between operations, and follows the memory.

    ``live`` are the bytes of the storages that live now, ``last_peak`` the most during the last operation,
    ``peak`` the most since ``restart_peak``, and ``peak_at`` the operation that reached it. ``hold`` counts
    what existed before.
    """

    supports_higher_order_operators = True

    def __init__(self, extra: Mapping[str, Formula] | None = None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.tally = Tally()
        self.live = self.peak = self.last_peak = 0
        self.peak_at = ""
        self._extra = dict(extra or {})
        self._known: dict[Any, tuple[str, Formula | None, bool]] = {}
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            name = str(func)
            return self._scan(*args, **kwargs) if name == "scan" else self._refuse(name)
        known = self._known.get(func)
        if known is None:
            known = self._known[func] = self._look_up(func)
        name, formula, is_elementwise = known
        out = _shaped_alike(name, args, kwargs) if is_elementwise else None
        if out is None:
            out = func(*args, **kwargs)
        tally = self.tally
        tally.n_operations += 1
        if formula is not None:
            flops = formula(args, kwargs, out)
            tally.flops += flops
            tally.by_op[name] += flops
            tally.recomputed += recomputed_flops(name, args, kwargs, out)
        outputs = [out] if isinstance(out, Tensor) else list(_tensors(out))
        inputs = list(_tensors((args, kwargs)))
        self._count_bytes(inputs, outputs, is_elementwise)
        new = 0
        for tensor in outputs:
            new += self._born(tensor)
        self.live += new
        self.last_peak = self.live
        if self.last_peak > self.peak:
            self.peak, self.peak_at = self.last_peak, name
        return out

    def _scan(self, combine: Callable[..., Any], init: Any, xs: Any, additional: Any = ()) -> list[Tensor]:
        """A loop along the first dimension as one operation: its body runs once and counts for all steps."""
        n_steps = int(xs[0].shape[0])
        whole, self.tally = self.tally, Tally()
        with self:
            out = list(combine(*init, *(x.select(0, 0) for x in xs), *additional))
        body, self.tally = self.tally, whole
        whole.add(body, times=n_steps)
        stacked = [y.new_empty((n_steps, *y.shape)) for y in out[len(init) :]]
        self.live += sum(self._born(y) for y in stacked)
        self.peak = max(self.peak, self.live)
        return [*out[: len(init)], *stacked]

    def _refuse(self, name: str) -> None:
        raise UnknownOperation(name)

    def restart_peak(self) -> None:
        self.peak, self.peak_at = self.live, ""

    def hold(self, tensors: Iterator[Tensor] | Sequence[Tensor]) -> int:
        """Count storages that exist already; returns the bytes of those that were not counted yet."""
        new = sum(self._born(tensor) for tensor in tensors)
        self.live += new
        return new

    def _look_up(self, func: Any) -> tuple[str, Formula | None, bool]:
        name = getattr(func, "_schema", None)
        name = name.name if name is not None else func.name()
        if (formula := self._extra.get(name) or FLOPS.get(name)) is not None:
            return name, formula, False
        if not is_zero_cost(name):
            raise UnknownOperation(name)
        return name, None, acts_on_elements(name)

    def _count_bytes(self, inputs: list[Tensor], outputs: list[Tensor], is_elementwise: bool) -> None:
        sources = {t.untyped_storage()._cdata for t in inputs}
        made = [t for t in outputs if t.untyped_storage()._cdata not in sources]
        in_place = [t for t in outputs if any(t is x for x in inputs)]
        if not made and not in_place:
            return  # a view
        tally = self.tally
        tally.bytes_read += sum(_bytes(t) for t in inputs)
        tally.bytes_written += sum(_bytes(t) for t in (made or in_place))
        if is_elementwise:
            tally.elements += max(t.numel() for t in (*inputs, *outputs))

    def _born(self, tensor: Tensor) -> int:
        """Bytes of a storage that was not known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return 0
        n_bytes = storage.nbytes()

        def died(_: object) -> None:
            self._storages.pop(key, None)
            self.live -= n_bytes

        self._storages[key] = weakref.ref(storage, died)
        return n_bytes


_ALIKE = frozenset(f"aten::{name}" for name in ("add", "addcmul", "div", "mul", "sub"))


def _shaped_alike(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What plain arithmetic on contiguous floating meta tensors of one type gives, or None elsewhere.

    torch works this out in Python, thirty times slower, and a recurrence along a sequence asks for it at
    every step.
    """
    if name not in _ALIKE or "out" in kwargs:
        return None
    tensors = [x for x in args if isinstance(x, Tensor)]
    first = tensors[0]
    for t in tensors:
        plain = t.is_meta and type(t) is Tensor and t.dtype is first.dtype and t.dim() and t.is_contiguous()
        if not plain:
            return None
    if not first.dtype.is_floating_point or any(isinstance(x, complex) for x in args):
        return None
    alike = len({t.shape for t in tensors}) == 1
    shape = first.shape if alike else _broadcast(*(t.shape for t in tensors))
    return torch.empty(shape, dtype=first.dtype, device="meta")


def _broadcast(*shapes: Sequence[int]) -> list[int]:
    n = max(map(len, shapes))
    return [
        max(sizes, key=lambda size: (size != 1, size))
        for sizes in zip(*((1,) * (n - len(s)) + tuple(s) for s in shapes))
    ]


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _tensors(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _tensors(item)


def _bytes(t: Tensor) -> int:
    """What is read of a tensor: an expanded one no more than its storage."""
    return min(t.numel() * t.element_size(), t.untyped_storage().nbytes())
