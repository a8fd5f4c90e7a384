"""The causality gate: replace the future, and see whether the past moves.

A gradient test is not enough: a mixer that *selects* past tokens by looking at the whole sequence has no
gradient from the future, and leaks all the same. So all inputs after a position t are replaced by other
random values, and by 100 times larger ones, in one row of a batch, in train and eval mode; outputs up to t,
and the other rows, must stay. What passes is "tested by perturbation", not proved.

How to call it on a layer (or on any module that maps (B, L, D) to (B, L, ...)):

    leak = causality_leak(layer, vectors(d_model), lengths=(2, 7, 33))
    if leak is not None:
        raise SpecError(f"... {leak}")

and on a whole model, which maps ids (B, L) to logits: ``causality_leak(model, token_ids(vocab_size))``. The
module is copied, set to float64 and all its parameters and persistent buffers are drawn at random, because
gates that start at zero hide leaks; ``weights="own"`` keeps trained weights. Choose lengths that reach past
the largest block, span or window of the layer, at least one of them no multiple of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Sampler = Callable[
    [int, torch.Generator], Tensor
]  # a length and a generator -> a batch of inputs (B, L, ...)


@dataclass(frozen=True)
class Leak:
    """How an output moved that had no right to: after inputs past ``position`` were replaced in row 0."""

    what: Literal["future", "batch", "not finite"]
    length: int
    position: int
    fraction: float  # share of the entries up to ``position`` (or of the other rows) that changed
    largest: float  # greatest change
    mode: Literal["train", "eval"]
    scale: float  # 1, or 100 for the larger values
    seed: int

    def __str__(self) -> str:
        where = f"length {self.length}, {self.mode} mode, values x{self.scale:g}, seed {self.seed}"
        if self.what == "not finite":
            return f"outputs are not finite ({where})"
        moved = f"{self.fraction:.1%} of them changed, by up to {self.largest:.3g} ({where})"
        if self.what == "batch":
            return f"outputs of one row depend on another row of the batch: {moved}"
        return f"outputs up to position {self.position} depend on inputs after it: {moved}"


def vectors(width: int, *, batch_size: int = 2) -> Sampler:
    """Standard normal float64 inputs (B, L, width)."""

    def sample(length: int, generator: torch.Generator) -> Tensor:
        return torch.randn(batch_size, length, width, generator=generator, dtype=torch.float64)

    return sample


def token_ids(vocab_size: int, *, batch_size: int = 2) -> Sampler:
    """Uniform ids (B, L)."""

    def sample(length: int, generator: torch.Generator) -> Tensor:
        return torch.randint(vocab_size, (batch_size, length), generator=generator)

    return sample


def causality_leak(
    module: nn.Module,
    sample: Sampler,
    *,
    lengths: Sequence[int] = (2, 7, 16, 33),
    seeds: Sequence[int] = (0, 1),
    weights: Literal["random", "own"] = "random",
    block: int = 1,
    tolerance: float = 1e-9,
) -> Leak | None:
    """The first leak found in a module whose output has the positions of its input in dimension 1, or None.

    With ``block`` (see ``Site``) outputs may see their whole block, so only the ends of blocks are tested.
    ``tolerance`` is relative to the greatest output of the unchanged run and to 1. ``module`` itself is not
    touched.
    """
    for seed in seeds:
        twin = (
            randomised(module, seed)
            if weights == "random"
            else copy.deepcopy(module).to("cpu", torch.float64)
        )
        for length in lengths:
            generator = torch.Generator().manual_seed(seed)
            x = sample(length, generator)
            for mode in ("eval", "train"):
                twin.train(mode == "train")
                before = _outputs(twin, x, seed)
                for position, scale, changed in _replaced_futures(x, sample, generator, block):
                    after = _outputs(twin, changed, seed)
                    if (found := _compare(before, after, position, tolerance)) is not None:
                        what, fraction, largest = found
                        return Leak(what, length, position, fraction, largest, mode, scale, seed)
    return None


def sees_future(module: nn.Module, sample: Sampler, *, length: int = 9, seed: int = 0) -> bool:
    """Whether some output depends on a later input, as those of a bidirectional module must."""
    twin = randomised(module, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    x = sample(length, generator)
    before = _outputs(twin, x, seed)
    for position, _, changed in _replaced_futures(x, sample, generator):
        moved = _outputs(twin, changed, seed)[0, : position + 1] - before[0, : position + 1]
        if bool((moved.abs() > 1e-9).any()):
            return True
    return False


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """A float64 copy on the CPU with every parameter and persistent floating buffer drawn at random.

    Matrices are normal with the variance of 1 / fan-in, vectors normal with standard deviation 0.5, so that
    the outputs stay of order one and no gate is closed. A buffer that is not persistent is a constant and
    is kept.
    """
    twin = copy.deepcopy(module).to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(1_000 + seed)
    shared = {id(p): p for p in twin.parameters()}.values()
    buffers = [b for name, b in twin.named_buffers() if name in twin.state_dict() and b.is_floating_point()]
    with torch.no_grad():
        for tensor in (*shared, *buffers):
            std = 0.5 if tensor.ndim < 2 else (tensor.numel() / tensor.shape[0]) ** -0.5
            draw = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(std * draw)
    return twin


def _replaced_futures(
    x: Tensor, sample: Sampler, generator: torch.Generator, block: int = 1
) -> Iterator[tuple[int, float, Tensor]]:
    """Positions t, scales and copies of ``x`` in which row 0 is replaced after t, the end of a block."""
    L = x.shape[1]
    ends = range(block - 1, L - 1, block)
    for position in sorted({ends[i] for i in (0, len(ends) // 3, len(ends) // 2, len(ends) - 1) if ends}):
        for scale in (1.0, 100.0) if x.is_floating_point() else (1.0,):
            other = sample(L, generator)
            changed = x.clone()
            changed[0, position + 1 :] = other[0, position + 1 :] * (scale if x.is_floating_point() else 1)
            yield position, scale, changed


def _outputs(module: nn.Module, x: Tensor, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)  # whatever the module draws itself is drawn alike in both runs
        y = module(x)
    return y if isinstance(y, Tensor) else y[0]  # a MixerOutput begins with its tensor


def _compare(
    before: Tensor, after: Tensor, position: int, tolerance: float
) -> tuple[Literal["future", "batch", "not finite"], float, float] | None:
    allowed = tolerance * max(1.0, float(before.abs().amax()))
    past = (after[0, : position + 1] - before[0, : position + 1]).abs()
    others = (after[1:] - before[1:]).abs()
    parts: tuple[tuple[Literal["future", "batch"], Tensor], ...] = (("future", past), ("batch", others))
    for what, moved in parts:
        if not bool(moved.isfinite().all()):
            return "not finite", float((~moved.isfinite()).double().mean()), float("inf")
        if moved.numel() and float(moved.amax()) > allowed:
            return what, float((moved > allowed).double().mean()), float(moved.amax())
    return None
