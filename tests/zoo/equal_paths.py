"""That a mixer's fast path is its reference, values and gradients, for tests that draw configurations."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from zoo.causality import randomised
from zoo.contract import Mixer

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
PRIMES = (2, 3, 7, 31, 37, 61)


def lengths_around(draw: st.DrawFn, block: int, *, at_most: int) -> int:
    """1, a prime, or one or two blocks and one position more or less."""
    edges = [max(1, many * block + more) for many in (1, 2) for more in (-1, 0, 1)]
    fitting = [length for length in (1, *PRIMES, *edges) if length <= at_most]
    return int(draw(st.sampled_from(fitting), label="length"))


def masks(draw: st.DrawFn, length: int) -> Tensor | None:
    """None, or a mask (2, L): padding after the first row, and before, after or in the midst of the second."""
    where = draw(st.sampled_from([None, "right", "left", "hole"]), label="padding")
    if where is None:
        return None
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[0, draw(st.integers(1, length), label="first row") :] = False
    start, stop = sorted(draw(st.integers(0, length), label="edge") for _ in range(2))
    if where == "right":
        mask[1, max(1, start) :] = False
    elif where == "left":
        mask[1, : min(start, length - 1)] = False
    else:
        mask[1, start:stop] = False
    return mask


def assert_paths_agree(mixer: Mixer, length: int, mask: Tensor | None, *, seed: int) -> None:
    """In float64 with random weights: outputs at real positions, and gradients of inputs and parameters."""
    twin = randomised(mixer, seed)
    assert isinstance(twin, Mixer)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, length, mixer.site.d_model, generator=draw, dtype=torch.float64)
    real = torch.ones(2, length, 1, dtype=torch.bool) if mask is None else mask[..., None]
    found = []
    for run in (twin, twin.reference):
        given = x.clone().requires_grad_()
        y = run(given, mask)
        assert isinstance(y, Tensor)
        y = y.masked_fill(~real, 0.0)
        wanted = [given, *twin.parameters()]
        found.append(
            [y, *torch.autograd.grad(y.sin().sum(), wanted, materialize_grads=True, allow_unused=True)]
        )
    torch.testing.assert_close(*found, **CLOSE)
