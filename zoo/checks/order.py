"""What a component may see: nothing later if it is causal, something later if it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from archspec import FeatureInput, TokenInput
from zoo.causality import Sampler, causality_leak, sees_future, token_ids, vectors
from zoo.checks.case import Case, expect
from zoo.contract import Mixer, StemConfig

_LENGTHS = (2, 7, 16, 17, 33)
_BLOCK = 4


def check_causality(case: Case) -> None:
    """What promises causality keeps it when the future is replaced; see ``zoo/causality.py``."""
    module, sample = _per_position(case)
    leak = causality_leak(module, sample, lengths=_legal(case, _LENGTHS))
    expect(leak is None, str(leak))


def check_causality_gradient(case: Case) -> None:
    """No output up to t has a gradient to an input after t: the same promise, seen by differentiation."""
    module = case.twin().train()
    for length in _legal(case, (7, 17)):
        x = case.inputs(length).requires_grad_()
        y = case.call(module, (x,))[0]
        for t in sorted({0, length // 2, length - 2}):
            (gradient,) = torch.autograd.grad(y[:, : t + 1].square().sum(), x, retain_graph=True)
            leak = float(gradient[:, t + 1 :].abs().amax())
            expect(
                leak <= 1e-9, f"length {length}: outputs up to {t} have gradient {leak:.3g} to later inputs"
            )


def check_block_causality(case: Case) -> None:
    """At a site that is causal in blocks, outputs see at most their own block and those before it."""
    assert issubclass(case.cls, Mixer)
    module = case.cls(case.config, replace(case.site, block=_BLOCK))  # type: ignore[arg-type]
    lengths = _legal(case, (_BLOCK, 3 * _BLOCK, 8 * _BLOCK))
    leak = causality_leak(module, vectors(case.d_model), lengths=lengths, block=_BLOCK)
    expect(leak is None, f"blocks of {_BLOCK}: {leak}")


def check_liveness(case: Case) -> None:
    """A mixer that may mix tokens does: some output depends on the past, and where it may, on the future."""
    sample, length = vectors(case.d_model), _legal(case, (9,))[0]
    module = case.build()
    expect(sees_future(_Flipped(module), sample, length=length), "no output depends on an earlier input")
    if case.can.causal != "always" and not case.causal:
        expect(
            sees_future(module, sample, length=length),
            "bidirectional, but no output depends on a later input",
        )


def check_positions_apart(case: Case) -> None:
    """What says it does not mix tokens (``mixes_tokens=False``) treats every position on its own."""
    module, sample = _per_position(case)
    for direction in (module, _Flipped(module)):
        leak = causality_leak(direction, sample, lengths=_legal(case, (7, 16)), seeds=(0,))
        expect(leak is None, f"mixes_tokens is False, but positions meet: {leak}")


def _per_position(case: Case) -> tuple[nn.Module, Sampler]:
    """The component as a map of positions to positions, and what draws its inputs."""
    if not isinstance(case.config, StemConfig):
        return case.build(), vectors(case.d_model)
    assert isinstance(case.input, (TokenInput, FeatureInput))
    # A stem may put several inputs into one position (patches) and a position of its own before them (cls).
    n_positions = case.config.out_length(case.input) - case.config.has_cls
    size = -(-case.input.seq_len // n_positions)
    module = _Stem(case.build(), size, case.config.has_cls)
    if isinstance(case.input, TokenInput):
        return module, token_ids(case.input.vocab_size)
    return module, vectors(size * case.input.d_input)


def _legal(case: Case, lengths: tuple[int, ...]) -> tuple[int, ...]:
    step, most = case.can.length_multiple_of, case.can.length_at_most or max(lengths)
    if case.role == "stem":
        most = min(most, case.site.seq_len - 1)
    rounded = (-(-length // step) * step for length in lengths)
    return tuple(dict.fromkeys(length for length in rounded if length <= most))


class _Flipped(nn.Module):
    """The module with time reversed."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Any:
        y = self.module(x.flip(1))
        return (y if isinstance(y, Tensor) else y[0]).flip(1)


class _Stem(nn.Module):
    """A stem that takes ``size`` inputs per position, without its cls position."""

    def __init__(self, module: nn.Module, size: int, has_cls: bool):
        super().__init__()
        self.module, self.size, self.has_cls = module, size, has_cls

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            x = x.reshape(x.shape[0], x.shape[1] * self.size, -1)
        return self.module(x)[:, int(self.has_cls) :]
