"""Known faults of torch's FlopCounterMode, as of the version below: a test that fails says that one is mended.

Then take it out of here, and out of what ``profile --verify`` explains.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_fvcore_check import Of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compiler.cost.traced import trace_call

PINNED = "2.13"
pytestmark = pytest.mark.skipif(
    not torch.__version__.startswith(PINNED + "."), reason=f"these faults were seen in torch {PINNED}"
)


def counted(function: Callable[..., Tensor], args: list[Tensor], *, backward: bool = False) -> int:
    with FlopCounterMode(display=False) as counter:
        out = function(*args)
        if backward:
            out.sum().backward()
    return counter.get_total_flops()


def true(function: Callable[..., Tensor], args: list[Tensor], *, backward: bool = False) -> int:
    found = trace_call(
        Of(function), [t.detach().to("meta").requires_grad_(t.requires_grad) for t in args], training=backward
    )
    return found.forward.flops + found.backward.flops


def test_attention_on_the_cpu_is_zero() -> None:
    args = [torch.randn(1, 2, 8, 4) for _ in range(3)]
    assert counted(F.scaled_dot_product_attention, args) == 0
    assert counted(F.scaled_dot_product_attention, [t.to("meta") for t in args]) == true(
        F.scaled_dot_product_attention, args
    )


def test_the_gradient_of_a_depthwise_convolutions_weight_ignores_groups() -> None:
    channels = 6
    args = [torch.randn(2, channels, 9, requires_grad=True), torch.randn(channels, 1, 4, requires_grad=True)]

    def convolve(x: Tensor, w: Tensor) -> Tensor:
        return F.conv1d(x, w, groups=channels)

    forward = true(convolve, args)
    assert true(convolve, args, backward=True) == 3 * forward
    assert counted(convolve, args, backward=True) == (2 + channels) * forward


ZERO: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "mv": (torch.mv, [torch.randn(4, 5), torch.randn(5)]),
    "dot": (torch.dot, [torch.randn(5), torch.randn(5)]),
    "addmv": (torch.addmv, [torch.randn(4), torch.randn(4, 5), torch.randn(5)]),
    "fft": (lambda x: torch.fft.rfft(x).real, [torch.randn(3, 8)]),
    "grouped_mm": (
        lambda a, b: torch._grouped_mm(a, b, torch.tensor([16, 32], dtype=torch.int32, device=a.device)),
        [torch.randn(32, 16).bfloat16(), torch.randn(2, 16, 8).bfloat16()],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ZERO)
def test_counted_as_zero(name: str) -> None:
    function, args = ZERO[name]
    assert counted(function, args) == 0 < true(function, args)
