"""Multiply-adds per operation, as handles for ``fvcore.nn.FlopCountAnalysis.set_op_handle``.

fvcore alone counts fused attention and FFTs as zero, broadcast matmuls too low and einsums inexactly. A
handle takes an operation's traced inputs and outputs (``torch._C.Value``) and returns multiply-adds as an
integer. An operation on complex numbers counts four real multiply-adds for one. Shapes: B batch, H heads, L
length, K and V head widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from archspec.cost import fft_flops
from zoo.contract import OpFlops

Handle = Callable[[list[Any], list[Any]], int]


def fvcore_handles() -> dict[str, Handle]:
    """Our handle for every matmul-class operation, by its traced name."""
    return {
        "aten::linear": _linear,
        "aten::matmul": _matmul,
        "aten::mm": _matmul,
        "aten::bmm": _matmul,
        "aten::mv": _matmul,
        "aten::dot": _matmul,
        "aten::addmm": _added_matmul,
        "aten::addmv": _added_matmul,
        "aten::baddbmm": _added_matmul,
        "aten::tensordot": _tensordot,
        "aten::einsum": _einsum,
        "aten::scaled_dot_product_attention": _attention,
        "aten::_convolution": _convolution,
        "aten::_convolution_mode": _convolution,
        "aten::fft_fft": _complex_fft,
        "aten::fft_ifft": _complex_fft,
        "aten::fft_rfft": _real_fft,
        "aten::fft_irfft": _inverse_real_fft,
    }


def shape_handle(formula: OpFlops) -> Handle:
    """A handle that asks a formula for dispatched operations: tensors without data, all else as it is."""

    def handle(inputs: list[Any], outputs: list[Any]) -> int:
        results = [_stand_in(value) for value in outputs]
        out = results[0] if len(results) == 1 else tuple(results)
        return formula([_stand_in(value) for value in inputs], {}, out) // 2

    return handle


def _stand_in(value: Any) -> Any:
    if value.node().kind() == "prim::ListConstruct":
        return [_stand_in(item) for item in value.node().inputs()]
    if value.isCompleteTensor():
        return torch.empty(_shape(value), device="meta")
    return value.toIValue()


def _linear(inputs: list[Any], outputs: list[Any]) -> int:
    """(..., K), (N, K) -> (..., N)."""
    return _weight(inputs[0]) * math.prod(_shape(outputs[0])) * _shape(inputs[1])[-1]


def _matmul(inputs: list[Any], outputs: list[Any]) -> int:
    """(..., M, K), (..., K, N) -> (..., M, N), batch dimensions broadcast, either operand a vector."""
    return _weight(inputs[0]) * math.prod(_shape(outputs[0])) * _shape(inputs[0])[-1]


def _added_matmul(inputs: list[Any], outputs: list[Any]) -> int:
    return _matmul(inputs[1:], outputs)


def _tensordot(inputs: list[Any], outputs: list[Any]) -> int:
    shape = _shape(inputs[0])
    contracted = (shape[dim] for dim in _constant(inputs[2], "tensordot's dims"))
    return _weight(inputs[0]) * math.prod(_shape(outputs[0])) * math.prod(contracted)


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """q (..., H, Lq, K), k (..., G, Lk, K), v (..., G, Lk, V): scores and sum, mask or not."""
    *heads, query_len, width = _shape(inputs[0])
    key_len = _shape(inputs[1])[-2]
    value_width = _shape(inputs[2])[-1]
    return math.prod(heads) * query_len * key_len * (width + value_width)


def _convolution(inputs: list[Any], outputs: list[Any]) -> int:
    """x (B, C, ...), w (C_out, C / groups, ...): one filter per output, transposed per input."""
    kernel = math.prod(_shape(inputs[1])[1:])
    transposed = len(inputs) > 7 and bool(_constant(inputs[6], "a convolution's 'transposed'"))
    return _weight(inputs[0]) * math.prod(_shape(inputs[0] if transposed else outputs[0])) * kernel


def _complex_fft(inputs: list[Any], outputs: list[Any]) -> int:
    return _fft(outputs[0], inputs[2], n=None, real=False)


def _inverse_real_fft(inputs: list[Any], outputs: list[Any]) -> int:
    return _fft(outputs[0], inputs[2], n=None, real=True)


def _real_fft(inputs: list[Any], outputs: list[Any]) -> int:
    """The length n is a constant, the input's own, or computed while tracing: then it must be even."""
    dim = _constant(inputs[2], "an FFT's dim")
    is_known = inputs[1].node().kind() == "prim::Constant"
    n = inputs[1].toIValue() if is_known else 2 * (_shape(outputs[0])[dim] - 1)
    return _fft(outputs[0], inputs[2], n=n or _shape(inputs[0])[dim], real=True)


def _fft(output: Any, dim: Any, *, n: int | None, real: bool) -> int:
    shape = _shape(output)
    length = shape[_constant(dim, "an FFT's dim")]
    return math.prod(shape) // length * fft_flops(n or length, real=real) // 2


def _einsum(inputs: list[Any], outputs: list[Any]) -> int:
    equation = _constant(inputs[0], "einsum's equation")
    operands = list(inputs[1].node().inputs())
    path = inputs[2].toIValue() if len(inputs) > 2 else None
    return _weight(operands[0]) * einsum_macs(equation, [_shape(x) for x in operands], path)


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]], path: Sequence[int] | None = None) -> int:
    """Multiply-adds of an einsum, pair by pair: from the left, or along a ``path`` (flat, two by two).

    A pair costs the product of all its extents. An index that one operand alone carries and nobody needs is
    summed before, without multiplication. A pair that contracts no index (a Hadamard or outer product) is
    elementwise: zero.
    """
    left, _, right = equation.replace(" ", "").partition("->")
    terms = [_extents(term, shape) for term, shape in zip(left.split(","), shapes, strict=True)]
    kept = set(_spelt_out(right, terms)) if "->" in equation else _implicit_output(left, terms)
    macs = 0
    for i, j in _pairs(len(terms), path):
        a, b = terms[i], terms[j]
        terms = [term for k, term in enumerate(terms) if k not in (i, j)]
        needed = kept.union(*terms)
        a = {x: n for x, n in a.items() if x in needed or b.get(x, 1) > 1 or n == 1}
        b = {x: n for x, n in b.items() if x in needed or a.get(x, 1) > 1 or n == 1}
        extents = {x: max(a.get(x, 1), b.get(x, 1)) for x in a | b}
        if any(x not in needed and n > 1 for x, n in extents.items()):
            macs += math.prod(extents.values())
        terms.append({x: n for x, n in extents.items() if x in needed})
    return macs


def _extents(term: str, shape: Sequence[int]) -> dict[str, int]:
    """Index -> extent; dimensions under an ellipsis are called "-1", "-2", ... from the right."""
    before, dots, after = term.partition("...")
    n_dots = len(shape) - len(before) - len(after) if dots else 0
    names = [*before, *(str(i - n_dots) for i in range(n_dots)), *after]
    assert len(names) == len(shape), f"einsum term '{term}' on shape {tuple(shape)}"
    return dict(zip(names, shape))


def _spelt_out(output: str, terms: Iterable[dict[str, int]]) -> list[str]:
    dots = {x for term in terms for x in term if not x.isalpha()} if "..." in output else set()
    return [*output.replace("...", ""), *dots]


def _implicit_output(left: str, terms: Iterable[dict[str, int]]) -> set[str]:
    """Without an arrow the output has every index that occurs once, and the ellipsis."""
    dots = {x for term in terms for x in term if not x.isalpha()}
    return {x for x in left if x.isalpha() and left.count(x) == 1} | dots


def _pairs(n_terms: int, path: Sequence[int] | None) -> Iterable[tuple[int, int]]:
    """Positions of the pairs to contract, one after the other; each result goes to the end of the list."""
    if path:
        return list(zip(path[::2], path[1::2]))
    return [(0, 1)] + [(len_left - 1, 0) for len_left in range(n_terms - 1, 1, -1)] if n_terms > 1 else []


def _shape(value: Any) -> list[int]:
    assert value.isCompleteTensor(), f"{value.debugName()} has no complete shape in the trace"
    return list(value.type().sizes())


def _weight(value: Any) -> int:
    """Real multiply-adds of one multiply-add in the value's type."""
    return 4 if "Complex" in value.type().scalarType() else 1


def _constant(value: Any, what: str) -> Any:
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        return [_constant(item, what) for item in node.inputs()]
    assert node.kind() == "prim::Constant", f"{what} must be a constant in the trace"
    return value.toIValue()
