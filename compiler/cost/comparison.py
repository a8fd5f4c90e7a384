"""One comparison of a closed form with fvcore, our trace and FlopCounterMode, on one module."""

from __future__ import annotations

from typing import Any

from torch import nn

from archspec import Cost
from compiler.cost.fvcore_check import Counted, count_both
from compiler.cost.verification import Check
from compiler.cost.witnesses import witnesses
from zoo.contract import Component


def compare(
    module: nn.Module,
    twin: nn.Module,
    args: tuple[object, ...],
    cost: Cost,
    *,
    method: str,
    path: str,
    kind: str,
    n_nodes: int,
    phase: str,
    length: int,
    params: int,
    train_flops: int | None,
    inputs_have_gradients: bool,
    counter_too: bool,
    kwargs: dict[str, Any] | None = None,
) -> Check:
    """The closed form's ``cost`` against every witness; ``twin`` is ``module`` on the meta device."""
    assert cost.flops % 2 == 0, f"{kind}: {cost.flops} FLOPs are no multiply-adds"
    counted, stock = count_both(module, args, kwargs, method=method)
    differences = _differences(counted, stock) if stock else ("it fails",)
    op_flops = {
        name: f for part in twin.modules() if isinstance(part, Component) for name, f in part.op_flops.items()
    }
    seen = witnesses(
        twin, args, kwargs, method=method, training=train_flops is not None,
        inputs_have_gradients=inputs_have_gradients, counter_too=counter_too, op_flops=op_flops,
    )  # fmt: skip
    return Check(
        path=path,
        kind=kind,
        n_nodes=n_nodes,
        phase=phase,
        length=length,
        macs=cost.flops // 2,
        fvcore_macs=counted.macs,
        stock_macs=stock.macs if stock else None,
        params=cost.params,
        fvcore_params=params,
        unknown_ops=tuple(sorted({*counted.unknown_ops, *seen.unknown_ops})),
        differences=differences,
        traced_macs=seen.traced,
        counter_macs=seen.counter,
        train_macs=None if train_flops is None else train_flops // 2,
        traced_train_macs=seen.traced_train,
        counter_train_macs=seen.counter_train,
        counter_differences=seen.differences,
    )


def _differences(counted: Counted, stock: Counted) -> tuple[str, ...]:
    """Per operation that the two count differently, stock fvcore's figure less ours."""
    names = sorted({*counted.by_op, *stock.by_op})
    gaps = {name: stock.by_op.get(name, 0) - counted.by_op.get(name, 0) for name in names}
    return tuple(f"{name} {gap:+,}" for name, gap in gaps.items() if gap)
