"""Count a module's multiply-adds with fvcore and our handles; unknown operations are reported, never zero."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compiler.cost.handles import Handle, fvcore_handles, shape_handle
from compiler.cost.zero_ops import is_zero_cost
from zoo.contract import Component

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # fvcore scripts a function when imported, which torch deprecates
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count


@dataclass(frozen=True)
class Counted:
    """What a trace found: multiply-adds of matmul-class operations, and operations that no table knows."""

    macs: int
    unknown_ops: tuple[str, ...] = ()
    by_op: dict[str, int] = field(default_factory=dict)


def count_macs(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, *, method: str = "forward"
) -> Counted:
    """Trace ``module.<method>(*args, **kwargs)`` on real tensors and count it with our handles.

    Arguments may be None or nest tensors in tuples and dicts (a decode state). fvcore's handles for norms,
    which are elementwise to us, are taken out; with ours in place everything that remains is counted or
    known to be free.
    """
    analysis = _analysis(FlopCountAnalysis, module, args, kwargs, method)
    for name in list(analysis._op_handles):
        del analysis._op_handles[name]  # set_op_handle(name, None) would not remove a default handle
    analysis.set_op_handle(**fvcore_handles(), **_own_handles(module))
    return _read(analysis)


def count_stock(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, *, method: str = "forward"
) -> Counted:
    """The same trace counted by fvcore as it comes: what it does not support is zero."""
    return _read(_analysis(FlopCountAnalysis, module, args, kwargs, method))


def count_both(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, *, method: str = "forward"
) -> tuple[Counted, Counted | None]:
    """What ``count_macs`` and ``count_stock`` say, from one trace; None where stock fvcore fails."""
    analysis = _analysis(FlopCountAnalysis, module, args, kwargs, method)
    ours, stock = fvcore_handles() | _own_handles(module), dict(analysis._op_handles)
    sums: dict[str, Counter[str]] = {"ours": Counter(), "stock": Counter()}
    unknown: set[str] = set()
    failed: set[str] = set()

    def handle(op: str) -> Callable[[list[Any], list[Any]], int]:
        def count(inputs: list[Any], outputs: list[Any]) -> int:
            name = op.partition("::")[2]
            if op in ours:
                sums["ours"][name] += ours[op](inputs, outputs)
            elif not is_zero_cost(op):
                unknown.add(op)
            if op in stock:
                try:
                    found = stock[op](inputs, outputs)
                except Exception:  # whatever it stumbles over
                    failed.add(op)
                else:
                    sums["stock"].update(found if isinstance(found, Counter) else {name: found})
            return 0

        return count

    analysis.set_op_handle(**{op: handle(op) for op in ours | stock})
    unknown.update(_read(analysis).unknown_ops)
    counted = _counted(sums["ours"], unknown)
    return counted, None if failed else _counted(sums["stock"], ())


def count_activations(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> int:
    """fvcore's activation count: elements that matmuls and convolutions put out (no bytes, no lifetimes)."""
    analysis = _analysis(ActivationCountAnalysis, module, args, kwargs, "forward")
    with torch.no_grad():
        return int(analysis.total())


def count_parameters(module: nn.Module) -> int:
    """fvcore's parameter count of the whole module; shared parameters count once."""
    return int(parameter_count(module)[""])


def _own_handles(module: nn.Module) -> dict[str, Handle]:
    """From what components say of their own operations (``op_flops``)."""
    own: dict[str, Handle] = {}
    for part in module.modules():
        if isinstance(part, Component):
            own |= {name: shape_handle(formula) for name, formula in part.op_flops.items()}
    return own


def _analysis(
    kind: type[Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None, method: str
) -> Any:
    leaves, structure = pytree.tree_flatten((args, kwargs or {}))
    call = _Call(module, method, leaves, structure)
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    analysis = kind(call, tensors)
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")


def _read(analysis: Any) -> Counted:
    with torch.no_grad():
        counted = analysis.by_operator()
    return _counted(counted, (name for name in analysis.unsupported_ops() if not is_zero_cost(name)))


def _counted(counts: Mapping[str, float], unknown: Iterable[str]) -> Counted:
    by_op: dict[str, int] = {}
    for name, count in counts.items():
        op = "conv" if name.startswith("_convolution") else name  # fvcore's own handle calls it so
        if count:
            by_op[op] = by_op.get(op, 0) + int(count)
    return Counted(sum(by_op.values()), tuple(sorted(unknown)), dict(sorted(by_op.items())))


class _Call(nn.Module):
    """A call from tensors to tensors, as tracing wants; it returns all, since tracing drops unused work."""

    def __init__(self, module: nn.Module, method: str, leaves: list[Any], structure: pytree.TreeSpec):
        super().__init__()
        self.module, self.method, self.structure = module, method, structure
        self.constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [
            next(given) if is_tensor else constant
            for is_tensor, constant in zip(self.is_tensor, self.constants)
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self.structure)
        target = self.module if self.method == "forward" else getattr(self.module, self.method)
        return tuple(x for x in pytree.tree_leaves(target(*args, **kwargs)) if isinstance(x, Tensor))
