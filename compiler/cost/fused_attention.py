"""Fused attention as one operation on tensors without data, forward and backward.

On meta tensors torch itself would spell it out, with a score for every pair of positions: the FLOPs would be
right, bytes and memory absurd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes


class FusedAttention(TorchFunctionMode):
    """``scaled_dot_product_attention`` on meta tensors becomes the kernel that the CPU would choose.

    FlexAttention becomes the same kernel, dense whatever its mask: which blocks a mask leaves out is data.
    """

    def __enter__(self) -> FusedAttention:
        self._kept = {name: getattr(flex, name) for name in _FLEX}
        for name, stand_in in _FLEX.items():
            setattr(flex, name, stand_in)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        for name, value in self._kept.items():
            setattr(flex, name, value)

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


def _flex_kernel(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Any, block_mask: Any, scale: float, *options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """q (B, H, L, K), k (B, G, N, K), v (B, G, N, V) -> the output, log-sum-exp and greatest scores."""
    if value.shape[-1] != query.shape[-1]:
        raise NotImplementedError("FlexAttention is traced where values are as wide as queries")
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scale)
    return out, lse, lse


_FLEX: dict[str, Any] = {
    "_validate_device": lambda *tensors: None,  # it wants a device that computes
    "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG": True,  # or it would be compiled
    "flex_attention_hop": _flex_kernel,
}


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
