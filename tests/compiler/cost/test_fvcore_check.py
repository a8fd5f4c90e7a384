"""The fvcore witness counts what textbooks count and names what it does not know."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archspec.cost import fft_flops
from compiler.cost import fvcore_handles
from compiler.cost.fvcore_check import (
    count_activations,
    count_both,
    count_macs,
    count_parameters,
    count_stock,
)
from compiler.cost.handles import einsum_macs
from compiler.cost.zero_ops import is_zero_cost


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]):
        super().__init__()
        self.function = function

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.function(*args, **kwargs)


def r(*shape: int) -> Tensor:
    return torch.randn(*shape)


CASES: dict[str, tuple[Callable[..., object], tuple[Tensor, ...], int]] = {
    "linear": (F.linear, (r(2, 5, 3), r(7, 3), r(7)), 2 * 5 * 3 * 7),
    "matmul_broadcast": (torch.matmul, (r(64, 64), r(8, 64, 32)), 8 * 64 * 64 * 32),
    "matmul_both_batched": (torch.matmul, (r(3, 1, 4, 5), r(2, 5, 6)), 3 * 2 * 4 * 5 * 6),
    "matvec": (torch.matmul, (r(2, 4, 5), r(5)), 2 * 4 * 5),
    "vecmat": (torch.matmul, (r(5), r(2, 5, 3)), 2 * 5 * 3),
    "mm": (torch.mm, (r(4, 5), r(5, 6)), 120),
    "mv": (torch.mv, (r(4, 5), r(5)), 20),
    "dot": (torch.dot, (r(5), r(5)), 5),
    "bmm": (torch.bmm, (r(2, 4, 5), r(2, 5, 6)), 240),
    "baddbmm": (torch.baddbmm, (r(2, 4, 6), r(2, 4, 5), r(2, 5, 6)), 240),
    "addmm": (torch.addmm, (r(6), r(4, 5), r(5, 6)), 120),
    "addmv": (torch.addmv, (r(4), r(4, 5), r(5)), 20),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), (r(2, 3, 4), r(3, 4, 5)), 120),
    "einsum": (lambda a, b: torch.einsum("bhld,bhmd->bhlm", a, b), (r(2, 3, 5, 4), r(2, 3, 6, 4)), 720),
    "einsum_list": (lambda a, b: torch.einsum("bl...,...->b", a, b), (r(2, 3, 4), r(4)), 2 * 4),
    "attention": (
        F.scaled_dot_product_attention,
        (r(2, 3, 5, 4), r(2, 3, 7, 4), r(2, 3, 7, 6)),
        2 * 3 * 35 * 10,
    ),
    "attention_causal": (
        lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True),
        (r(2, 3, 5, 4),),
        2 * 3 * 25 * 8,
    ),
    "attention_grouped": (
        lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True),
        (r(2, 6, 5, 4), r(2, 2, 7, 4)),
        2 * 6 * 35 * 8,
    ),
    "conv1d_depthwise": (
        lambda x, w: F.conv1d(x, w, padding=3, groups=6),
        (r(2, 6, 9), r(6, 1, 4)),
        2 * 6 * 12 * 4,
    ),
    "conv1d_same": (lambda x, w: F.conv1d(x, w, padding="same"), (r(2, 6, 9), r(4, 6, 3)), 2 * 4 * 9 * 6 * 3),
    "conv2d_groups": (
        lambda x, w: F.conv2d(x, w, stride=2, groups=2),
        (r(1, 4, 8, 8), r(6, 2, 2, 2)),
        6 * 16 * 8,
    ),
    "conv_transpose1d": (F.conv_transpose1d, (r(2, 4, 9), r(4, 5, 3)), 2 * 4 * 9 * 5 * 3),
    "fft": (lambda x: torch.fft.fft(x, dim=1), (r(2, 8, 3),), 6 * fft_flops(8) // 2),
    "rfft_constant": (
        lambda x: torch.fft.rfft(x, n=12, dim=1),
        (r(2, 8, 3),),
        6 * fft_flops(12, real=True) // 2,
    ),
    "rfft_odd_input": (lambda x: torch.fft.rfft(x, dim=1), (r(2, 7, 3),), 6 * fft_flops(7, real=True) // 2),
    "rfft_from_shape": (
        lambda x: torch.fft.rfft(x, n=2 * x.shape[1], dim=1),
        (r(2, 8, 3),),
        6 * fft_flops(16, real=True) // 2,
    ),
    "irfft": (
        lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=8, dim=1),
        (r(2, 8, 3),),
        6 * fft_flops(8, real=True),
    ),
    "complex_matmul": (lambda a, b: torch.complex(a, a) @ torch.complex(b, b), (r(4, 5), r(5, 6)), 480),
    "norms_and_activations": (
        lambda x: F.silu(F.layer_norm(x, (4,))) + F.rms_norm(x, (4,)).softmax(-1).cumsum(1),
        (r(2, 3, 4),),
        0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_counts_the_textbook_number(case: str) -> None:
    function, args, macs = CASES[case]
    counted = count_macs(Of(function), args)
    assert (counted.macs, counted.unknown_ops) == (macs, ())


@pytest.mark.parametrize("case", CASES)
def test_one_trace_gives_our_count_and_that_of_stock_fvcore(case: str) -> None:
    function, args, _ = CASES[case]
    counted, stock = count_both(Of(function), args)
    assert counted == count_macs(Of(function), args)
    try:
        alone = count_stock(Of(function), args)
    except (IndexError, AssertionError):
        assert stock is None
    else:
        assert stock is not None
        assert (stock.macs, stock.by_op) == (alone.macs, alone.by_op)


def test_arguments_may_be_none_nested_or_named() -> None:
    def step(
        x: Tensor, state: dict[str, Tensor], mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert mask is None
        return x @ state["w"], {"w": state["w"] @ state["w"]}

    counted = count_macs(Of(step), (r(2, 4), {"w": r(4, 4)}), {"mask": None})
    assert (
        counted.macs == 2 * 4 * 4 + 4 * 4 * 4
    )  # the state's product counts, though the output does not need it


def test_another_method_can_be_counted() -> None:
    class Steps(nn.Module):
        def step(self, x: Tensor) -> Tensor:
            return x @ x

    assert count_macs(Steps(), (r(3, 3),), method="step").macs == 27


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (lambda x: torch.linalg.solve(x, x), "aten::linalg_solve"),
        (lambda x: torch.cdist(x, x), "aten::cdist"),
        (lambda x: torch.logdet(x), "aten::logdet"),
    ],
    ids=["solve", "cdist", "logdet"],
)
def test_an_operation_in_no_table_is_named(function: Callable[..., object], op: str) -> None:
    assert op in count_macs(Of(function), (r(4, 4) + 4 * torch.eye(4),)).unknown_ops


def test_an_autograd_function_is_unknown() -> None:
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x @ x

    assert count_macs(Of(Hidden.apply), (r(4, 4),)).unknown_ops == ("prim::PythonOp.Hidden",)


def test_no_handle_is_also_called_free() -> None:
    assert not [name for name in fvcore_handles() if is_zero_cost(name)]


def test_stock_fvcore_misses_attention_and_broadcasting() -> None:
    function, args, macs = CASES["attention"]
    stock = count_stock(Of(function), args)
    assert stock.macs == 0 < macs
    assert stock.unknown_ops == ("aten::scaled_dot_product_attention",)
    function, args, macs = CASES["matmul_broadcast"]
    assert 8 * count_stock(Of(function), args).macs == macs


def test_counting_is_silent(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_macs(Of(lambda x: torch.linalg.solve(x, x) if x.sum() > 0 else x), (torch.eye(3),))
    assert (caplog.records, capsys.readouterr().out) == ([], "")


def test_parameters_shared_between_modules_count_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    assert count_parameters(model) == 18
    model[1].weight = model[0].weight
    assert count_parameters(model) == 9


def test_activations_are_outputs_of_matmuls() -> None:
    assert (
        count_activations(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), (r(4, 3),))
        == 4 * 5 + 4 * 2
    )


@pytest.mark.parametrize(
    ("equation", "shapes", "path", "macs"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], None, 24),
        ("ij,jk", [(2, 3), (3, 4)], None, 24),
        ("ij,ij->ij", [(2, 3), (2, 3)], None, 0),
        ("i,j->ij", [(2,), (3,)], None, 0),
        ("ij,jk->k", [(2, 3), (3, 4)], None, 12),  # i is summed before
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], None, 2 * 3 * 4 + 2 * 4 * 5),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], [1, 2, 0, 1], 3 * 4 * 5 + 2 * 3 * 5),
        ("ij,jk,kl,lm->im", [(2, 3), (3, 4), (4, 5), (5, 6)], None, 24 + 40 + 60),
        ("bij,bjk->bik", [(7, 2, 3), (1, 3, 4)], None, 7 * 24),
        ("...ij,jk->...ik", [(7, 2, 3), (3, 4)], None, 7 * 24),
        ("ij->i", [(2, 3)], None, 0),
        ("ij,kj->ik", [(2, 3), (4, 1)], None, 0),  # a broadcast index is summed alone
    ],
)  # fmt: skip
def test_einsum_is_exact(
    equation: str, shapes: list[tuple[int, ...]], path: list[int] | None, macs: int
) -> None:
    torch.einsum(equation, *(torch.zeros(shape) for shape in shapes))  # the equation is legal
    assert einsum_macs(equation, shapes, path) == macs


@pytest.mark.parametrize("n", [1, 2, 7, 8, 12, 1024])
def test_fft_formula(n: int) -> None:
    full = 5 * n * math.ceil(math.log2(n))
    assert 0 <= fft_flops(n) - full < 2
    assert 0 <= fft_flops(n, real=True) - full / 2 < 2
    assert fft_flops(n) % 2 == fft_flops(n, real=True) % 2 == 0
