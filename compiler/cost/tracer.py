"""One pass over the operations that torch dispatches: FLOPs, elements, bytes, and every storage's life.

``Tracer`` is a ``TorchDispatchMode``. It is made for meta tensors, which have shapes and no data, and works
on real ones too. Fused attention stays one operation (``FusedAttention``): on meta tensors torch itself would
spell it out, with a score for every pair. An operation in no table is an error, never zero.

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
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

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


class Tracer(TorchDispatchMode):
    """Counts into ``tally``, which may be exchanged between operations, and follows the memory.

    ``live`` are the bytes of the storages that live now, ``last_peak`` the most during the last operation,
    ``peak`` the most since ``restart_peak``, and ``peak_at`` the operation that reached it. ``hold`` counts
    what existed before.
    """

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


class FusedAttention(TorchFunctionMode):
    """``scaled_dot_product_attention`` on meta tensors becomes the kernel that the CPU would choose."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args and args[0].is_meta:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def backward(ends: Sequence[Tensor]) -> None:
    """``torch.autograd.backward`` with a gradient for each of ``ends``, under ``FusedAttention`` too.

    torch's own function would be taken for one to override, and what a checkpoint runs again inside of it
    would go without the mode.
    """
    gradients = tuple(torch.ones_like(end) for end in ends)
    torch.autograd.Variable._execution_engine.run_backward(
        tuple(ends), gradients, False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    fused = _cpu_fuses(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if not fused:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        hidden = torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = hidden.masked_fill_(attn_mask.logical_not(), float("-inf"))
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return out


def _cpu_fuses(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *options: Any) -> bool:
    """Whether torch picks a fused kernel: asked with tensors of these shapes that share a single row."""
    dropout_p, is_causal, scale, enable_gqa = options
    with _disable_current_modes():
        query, key, value = (_stand_in(t) for t in (q, k, v))
        choice = torch._fused_sdp_choice(
            query,
            key,
            value,
            attn_mask=None if mask is None else _stand_in(mask),
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    return int(choice) != torch.nn.attention.SDPBackend.MATH.value


def _stand_in(t: Tensor) -> Tensor:
    row = torch.empty(max(1, t.shape[-1]), dtype=t.dtype, device="cpu")
    flat = row.as_strided(t.shape, (0,) * (t.dim() - 1) + (1,))
    return flat.requires_grad_(t.requires_grad) if t.dtype.is_floating_point else flat


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
