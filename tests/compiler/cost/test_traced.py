"""The traced count: textbook numbers, forward and backward, and the closed form of every component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from test_fvcore_check import CASES as FORWARD_CASES
from test_fvcore_check import Of
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch.nn.attention.flex_attention import flex_attention

from archspec import Site
from archspec.cost import fft_flops
from compiler.cost.op_flops import FLOPS
from compiler.cost.traced import TracedCall, trace_call
from compiler.cost.tracer import UnknownOperation
from compiler.cost.zero_ops import is_zero_cost
from zoo import load_zoo
from zoo.checks import Case, all_cases
from zoo.contract import Mixer, Norm, Stem

COMPONENTS = list(all_cases(load_zoo()))
LONG = 131_072


def meta(*shape: int, grad: bool = True) -> Tensor:
    return torch.empty(shape, device="meta", requires_grad=grad)


@pytest.mark.parametrize("name", FORWARD_CASES)
def test_forward_is_the_textbook_number(name: str) -> None:
    function, args, macs = FORWARD_CASES[name]
    found = trace_call(Of(function), [x.to("meta") for x in args])
    assert found.forward.flops == 2 * macs


BACKWARD: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...], int]] = {
    "linear": (F.linear, (meta(5, 3), meta(7, 3)), 2 * 2 * 5 * 3 * 7),
    "linear_of_data": (F.linear, (meta(5, 3, grad=False), meta(7, 3)), 2 * 5 * 3 * 7),
    "vector": (torch.mv, (meta(4, 5), meta(5)), 2 * 20),  # of the vector; the matrix's is an outer product
    "attention": (
        F.scaled_dot_product_attention,
        (meta(2, 3, 5, 4), meta(2, 3, 7, 4), meta(2, 3, 7, 4)),
        2 * 2 * 2 * 3 * 35 * 8,
    ),
    "depthwise": (lambda x, w: F.conv1d(x, w, groups=6), (meta(2, 6, 9), meta(6, 1, 4)), 2 * 2 * 2 * 6 * 6 * 4),
    "strided_groups": (
        lambda x, w: F.conv2d(x, w, stride=2, groups=2),
        (meta(1, 4, 8, 8), meta(6, 2, 2, 2)),
        2 * 2 * 6 * 16 * 8,
    ),
    "transposed": (F.conv_transpose1d, (meta(2, 4, 9), meta(4, 5, 3)), 2 * 2 * 2 * 4 * 9 * 5 * 3),
    "rfft": (lambda x: torch.fft.rfft(x).real, (meta(6, 8),), 6 * fft_flops(8)),
    "irfft": (
        lambda x: torch.fft.irfft(torch.complex(x, x), n=8),
        (meta(6, 5),),
        6 * fft_flops(8, real=True),
    ),
    "embedding": (lambda w: F.embedding(torch.zeros(9, dtype=torch.long, device="meta"), w), (meta(5, 3),), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKWARD)
def test_backward_is_the_textbook_number(name: str) -> None:
    function, args, flops = BACKWARD[name]
    assert trace_call(Of(function), args, training=True).backward.flops == flops


def test_grouped_products_count_every_row_once() -> None:
    ends = torch.zeros(3, dtype=torch.int32, device="meta")
    a, b = (meta(*shape, grad=False).bfloat16() for shape in ((64, 16), (3, 16, 32)))
    found = trace_call(Of(lambda a, b: torch._grouped_mm(a, b, ends)), (a, b))
    assert found.forward.flops == 2 * 64 * 16 * 32


def test_attention_is_one_operation_and_never_makes_all_scores() -> None:
    q = meta(1, 8, LONG, 64)
    found = trace_call(
        Of(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True)), (q,), training=True
    )
    assert found.forward.flops == 4 * 8 * LONG * LONG * 64
    size = 4 * q.numel()
    assert size < found.forward_peak < 1.1 * size
    assert found.backward.recomputed == found.forward.flops // 2


def test_flex_attention_is_one_dense_operation() -> None:
    q, kv = meta(1, 8, 1024, 64), meta(1, 2, 1024, 64)

    def attend(q: Tensor, kv: Tensor) -> Tensor:
        found: Tensor = flex_attention(q, kv, kv, score_mod=lambda s, b, h, i, j: s + i - j, enable_gqa=True)
        return found

    found = trace_call(Of(attend), (q, kv), training=True)
    assert found.forward.flops == 4 * 8 * 1024 * 1024 * 64
    assert found.backward.flops == 2 * found.forward.flops
    assert found.forward_peak < 2 * 4 * q.numel()  # no score for every pair


def test_bytes_and_lives_by_hand() -> None:
    """exp keeps its output, which lives; views move nothing; a product reads both factors."""
    found = trace_call(Of(lambda x: x.view(4, 6).exp().T), (meta(24),), training=True)
    assert (found.forward.bytes_read, found.forward.bytes_written) == (96, 96)
    assert (found.forward_peak, found.kept) == (96, 96)
    found = trace_call(Of(lambda x, w: (x @ w).relu_().sum()), (meta(2, 3), meta(3, 5)), training=True)
    assert found.forward.bytes_read == 4 * (6 + 15 + 10 + 10)
    assert found.forward.elements == 10 + 10


def test_a_scan_is_its_body_once_for_every_step() -> None:
    def recurrence(x: Tensor, w: Tensor) -> Tensor:
        def step(carry: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
            new = carry @ w + token
            return new, new.clone()

        ys: Tensor = scan(step, x.new_zeros(x.shape[1:]), x, dim=0)[1]
        return ys

    for length in (16, 4096):
        found = trace_call(Of(recurrence), (meta(length, 4, 8, grad=False), meta(8, 8, grad=False)))
        assert found.forward.flops == length * 2 * 4 * 8 * 8


@pytest.mark.parametrize(
    ("function", "name"),
    [(lambda x: torch.linalg.solve(x, x), "aten::_linalg_solve_ex"), (lambda x: torch.cdist(x, x), "aten::_cdist_forward")],
    ids=["solve", "cdist"],
)  # fmt: skip
def test_an_operation_in_no_table_is_refused(function: Callable[..., object], name: str) -> None:
    with pytest.raises(UnknownOperation, match=name):
        trace_call(Of(function), (meta(4, 4, grad=False),))


def test_no_operation_is_both_counted_and_free() -> None:
    assert not [name for name in FLOPS if is_zero_cost(name)]


def traced(case: Case, length: int, *, training: bool, batch_size: int = 2) -> TracedCall:
    with torch.device("meta"):
        module = case.build()
    arguments = case.arguments(length, batch_size=batch_size, dtype=torch.float32)
    args = [x.to("meta") for x in arguments]
    if not isinstance(module, Stem):
        args = [x.requires_grad_() for x in args]
    return trace_call(module, args, training=training, op_flops=module.op_flops)


@pytest.mark.parametrize("case", COMPONENTS, ids=lambda case: case.id)
def test_the_closed_form_of_every_component_is_its_trace(case: Case) -> None:
    for length in sorted({*case.lengths[:2], *case.lengths[-2:]}):
        said = case.cost(length)
        assert traced(case, length, training=False).forward.flops == said.flops, length
        ctx = case.context(length, phase="train", batch_size=3)
        said = case.config.cost(ctx)
        found = traced(case, length, training=True, batch_size=3)
        assert found.forward.flops == said.flops, length
        assert found.backward.flops == case.config.backward_flops(ctx, said)[0], length


def long_case(case: Case, length: int) -> TracedCall:
    """On one sequence of any length: tables that grow with the site are as long as they must."""
    site = Site(case.d_model, length, case.causal)
    with torch.device("meta"):
        module = (
            case.cls(case.config, case.d_model) if issubclass(case.cls, Norm) else case.cls(case.config, site)
        )  # type: ignore[call-arg]
    return trace_call(module, [meta(1, length, case.d_model)], training=True)


MIXERS = [
    case
    for case in COMPONENTS
    if issubclass(case.cls, Mixer) and case.d_model == 32 and case.can.length_at_most is None
]
DEGREES = {"1": 0, "L": 1, "L^2": 2}


@pytest.mark.parametrize("case", MIXERS, ids=lambda case: case.id)
def test_long_sequences(case: Case) -> None:
    """Where the class in L is a polynomial, the value at 131,072 comes out of small lengths; else directly."""
    degree, period = DEGREES.get(case.can.complexity), case.can.period
    polynomial = degree is not None and period is not None
    for training in (False, True):
        if polynomial:
            long = LONG // period * period
            lengths = [period * (3 + k) for k in range(degree + 1)]
            counts = [flops(long_case(case, length), training) for length in lengths]
            assert interpolated(lengths, counts, long) == closed(case, long, training)
            continue
        for length in (2048, 5000, 16384):
            assert flops(long_case(case, length), training) == closed(case, length, training)


def flops(found: TracedCall, backward: bool) -> int:
    return found.backward.flops if backward else found.forward.flops


def closed(case: Case, length: int, backward: bool) -> int:
    ctx = replace(case.context(7), seq_len=length, batch_size=1, max_len=length, phase="train")
    cost = case.config.cost(ctx)
    return case.config.backward_flops(ctx, cost)[0] if backward else cost.flops


def interpolated(at: list[int], values: list[int], x: int) -> int:
    """Lagrange's polynomial through the points, at x; exact."""
    total = Fraction(0)
    for i, value in enumerate(values):
        term = Fraction(value)
        for j, other in enumerate(at):
            term *= Fraction(x - other, at[i] - other) if i != j else 1
        total += term
    assert total.denominator == 1
    return int(total)
