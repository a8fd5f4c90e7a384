"""What a component says it costs, against the module and against a counter of multiply-adds."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from archspec import Cost
from zoo.checks.case import Case, expect
from zoo.contract import Mixer


class Counted(Protocol):
    """Multiply-adds of one call, and the operations that the counter does not know."""

    @property
    def macs(self) -> int: ...

    @property
    def unknown_ops(self) -> tuple[str, ...]: ...


class CountMacs(Protocol):
    """``compiler.cost.fvcore_check.count_macs``; handed in, because the zoo does not know the compiler."""

    def __call__(
        self,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        method: str = "forward",
    ) -> Counted: ...


def check_parameters(case: Case) -> None:
    """``params`` and ``buffer_bytes`` are those of the module; the parts are no larger than the whole."""
    module, cost = case.build(), case.cost(case.lengths[-1])
    held = sum(p.numel() for p in case.own_parameters(module).values())
    expect(cost.params == held, f"the module has {held} parameters, the cost says {cost.params}")
    expect(cost.params_active <= cost.params, f"{cost.params_active} of {cost.params} parameters are active")
    expect((cost.params_active > 0) == (cost.params > 0), "no parameter is active")
    expect(cost.params_embedding <= cost.params, f"{cost.params_embedding=} exceeds {cost.params=}")
    n_bytes = sum(b.numel() * b.element_size() for b in module.buffers())
    expect(cost.buffer_bytes == n_bytes, f"buffers take {n_bytes} bytes, the cost says {cost.buffer_bytes}")


def check_cost(case: Case) -> None:
    """The closed form answers in every phase and type; needed <= done; twice the batch is twice the work.

    Where the component says that it works once per batch: less, and each further sequence the same; one step
    of its decoding may share nothing.
    """
    for phase in ("prefill", "train", "decode"):
        if phase == "decode" and not case.decodes:
            continue
        for dtype in ("float32", "bfloat16"):
            at = {"phase": phase, "dtype": dtype} | ({"context_len": 9} if phase == "decode" else {})
            one, two, three = (
                case.cost(1 if phase == "decode" else 16, batch_size=n, **at) for n in (1, 2, 3)
            )
            expect(isinstance(one, Cost), f"cost gives {type(one).__name__}")
            expect(one.flops_needed <= one.flops, f"{one.flops_needed=} exceeds {one.flops=} ({phase})")
            more, still_more = two.flops - one.flops, three.flops - two.flops
            once = case.config.capabilities().works_once_per_batch
            as_much = more == one.flops and (not once or phase == "decode")
            expect(
                more == still_more and (as_much or (once and more < one.flops)),
                f"a second sequence costs {more} beside {one.flops}, a third one {still_more} ({phase})",
            )
            expect(two.params == one.params, "the number of parameters depends on the batch")


def check_flops(case: Case, count_macs: CountMacs) -> None:
    """``flops`` is twice the multiply-adds counted in ``forward``, exactly, and no operation is unknown."""
    module = case.build().eval()
    for length in case.lengths[-3:]:
        for batch_size in (1, 2):
            arguments = case.arguments(length, batch_size=batch_size, dtype=torch.float32)
            said = case.cost(length, batch_size=batch_size).flops
            _expect_flops(count_macs(module, arguments), said, f"length {length}, batch {batch_size}")


def check_decode_flops(case: Case, count_macs: CountMacs) -> None:
    """In phase ``decode``, ``flops`` is that of one ``step`` after ``context_len`` tokens, exactly."""
    module = case.build().eval()
    assert isinstance(module, Mixer)
    for n in (1, 16, 17):
        for batch_size in (1, 2):
            x = case.inputs(n + 1, batch_size=batch_size, dtype=torch.float32)
            state = module.init_state(batch_size, dtype=torch.float32, device="cpu")
            _, state = module.prefill(x[:, :n], state)
            said = case.cost(1, batch_size=batch_size, phase="decode", context_len=n).flops
            counted = count_macs(module, (x[:, n], state), method="step")
            _expect_flops(counted, said, f"one step after {n} tokens, batch {batch_size}")


def _expect_flops(counted: Counted, said: int, where: str) -> None:
    expect(
        not counted.unknown_ops, f"{where}: no table knows the operations {', '.join(counted.unknown_ops)}"
    )
    found = 2 * counted.macs
    expect(found == said, f"{where}: forward does {found} FLOPs, the cost says {said} ({said - found:+d})")
