"""FLOPs of every matmul-class operation as torch's dispatcher runs it, forward and backward: a fixed table.

A formula takes the operation's arguments and result and gives FLOPs, 2 per multiply-add; one multiply-add of
complex numbers counts as four. A component of your own gives such formulas in ``op_flops``, for operations
that are in no table here (``zoo.contract.Component``).

What the table decides, where two counters could differ:

- Attention is dense, whatever its mask: two products forward, four backward. A fused kernel's backward pass
  also forms the scores again; that is ``recomputed_flops``, apart from the count.
- A convolution's gradients each cost what the forward pass costs, groups included.
- FFTs cost ``archspec.cost.fft_flops``, a transform of real numbers half of one of complex numbers. Backward,
  torch makes the gradient of a forward real transform by a complex one, which therefore counts twice.

Shapes: B batch, H heads, L length, K and V head widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from archspec.cost import fft_flops
from zoo.contract import OpFlops

Formula = OpFlops


def _weight(x: Tensor) -> int:
    """Real FLOPs of one multiply-add in the type of ``x``."""
    return 8 if x.is_complex() else 2


def _product(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """(..., M, K), (..., K, N) -> (..., M, N), or vectors: every output is a sum over K."""
    return _weight(args[0]) * int(out.numel()) * int(args[0].shape[-1])


def _added_product(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    return _product(args[1:], kwargs, out)


def _linear(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """(..., K), (N, K) -> (..., N); seen whole in inference mode alone."""
    return _product(args, kwargs, out)


def _grouped_product(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Rows sorted by group, each group times a matrix of its own: (M, K), (G, K, N) -> (M, N).

    Where the groups part K, (M, K), (K, N) -> (G, M, N), every row of K is multiplied once.
    """
    a, b = args[0], args[1]
    if a.dim() == 2 and b.dim() == 2:
        return 2 * int(a.shape[0]) * int(a.shape[1]) * int(b.shape[1])
    return _product(args, kwargs, out)


def _convolution(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """x (B, C, ...), w (C_out, C / groups, ...): one filter per output; transposed, one per input."""
    x, weight, transposed = args[0], args[1], bool(args[6])
    return _weight(x) * int((x if transposed else out).numel()) * math.prod(weight.shape[1:])


def _convolution_backward(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Gradients of the output, x and w come first; ``output_mask`` (x, w, bias) says which are wanted."""
    grad, x, weight, transposed, wanted = args[0], args[1], args[2], bool(args[7]), args[10]
    one = _weight(x) * int((x if transposed else grad).numel()) * math.prod(weight.shape[1:])
    return (bool(wanted[0]) + bool(wanted[1])) * one


def _attention(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """q (..., H, Lq, K), k (..., G, Lk, K), v (..., G, Lk, V): the scores, and the sum of values."""
    return _attention_products(args[0], args[1], args[2])


def _attention_backward(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """The output's gradient comes first: gradients of weights and values, then of queries and keys."""
    return 2 * _attention_products(args[1], args[2], args[3])


def _attention_products(q: Tensor, k: Tensor, v: Tensor) -> int:
    return 2 * math.prod(q.shape[:-1]) * int(k.shape[-2]) * int(q.shape[-1] + v.shape[-1])


def _scores_again(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    q, k = args[1], args[2]
    return 2 * math.prod(q.shape[:-1]) * int(k.shape[-2]) * int(q.shape[-1])


def _complex_fft(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    return _fft(out.shape, args[1], real=False)


def _real_fft(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Counts as complex where the whole spectrum is wanted (``torch.fft.fft`` of real numbers)."""
    return _fft(args[0].shape, args[1], real=bool(args[3]))


def _inverse_real_fft(args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    return _fft(out.shape, args[1], real=True)


def _fft(shape: Sequence[int], dims: Sequence[int], *, real: bool) -> int:
    """Transforms along ``dims`` of an array of (real) ``shape``; along several, one after the other."""
    total = math.prod(shape)
    return sum(total // int(shape[d]) * fft_flops(int(shape[d]), real=real) for d in dims if total)


_FUSED = ("flash_attention", "efficient_attention", "cudnn_attention", "fused_attention_overrideable")

FLOPS: dict[str, Formula] = {
    **dict.fromkeys(("aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::vdot"), _product),
    **dict.fromkeys(("aten::addmm", "aten::addmv", "aten::baddbmm"), _added_product),
    "aten::_addmm_activation": _added_product,
    **dict.fromkeys(("aten::_scaled_mm", "aten::_int_mm"), _product),
    **dict.fromkeys(("aten::linear", "aten::matmul"), _linear),
    "aten::_grouped_mm": _grouped_product,
    "aten::_scaled_grouped_mm": _grouped_product,
    "aten::convolution": _convolution,
    "aten::_convolution": _convolution,
    "aten::convolution_backward": _convolution_backward,
    "aten::_fft_c2c": _complex_fft,
    "aten::_fft_r2c": _real_fft,
    "aten::_fft_c2r": _inverse_real_fft,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    **{f"aten::_scaled_dot_product_{kind}": _attention for kind in _FUSED},
    **{f"aten::_scaled_dot_product_{kind}_backward": _attention_backward for kind in _FUSED},
    "flex_attention": _attention,
    "flex_attention_backward": _attention_backward,
}  # fmt: skip

_RECOMPUTED: dict[str, Formula] = {
    name: _scores_again for name, formula in FLOPS.items() if formula is _attention_backward
}


def recomputed_flops(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """FLOPs that the kernel of ``name`` spends on forming again what its forward pass did not keep."""
    formula = _RECOMPUTED.get(name)
    return formula(args, kwargs, out) if formula else 0
