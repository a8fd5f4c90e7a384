"""What an architecture costs: integers with units, additive over the tree, never one number "FLOPs"."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from archspec.inputs import FeatureInput, ImageInput, TokenInput

Dtype = Literal["float64", "float32", "bfloat16", "float16"]
Phase = Literal["prefill", "decode", "train"]
DTYPE_BYTES: dict[Dtype, int] = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Site:
    """Where a component stands: the stream's width and greatest length, and whether it must be causal.

    Under ``causal``, output t may depend on inputs up to the end of t's block of ``block`` positions.
    Attention makes use of the whole block (FIT's latents of one group see each other); any mixer that is
    causal by token fits as well.
    """

    d_model: int
    seq_len: int
    causal: bool
    block: int = 1


@dataclass(frozen=True)
class CostContext:
    """The question a cost answers.

    ``seq_len`` tokens of a batch are processed at once; in phase ``decode`` that is one token
    (``seq_len == 1``) after ``context_len`` earlier ones, or the several positions of one moment (see
    ``MixerConfig.block_cost``). ``max_len`` is the stream's greatest length (position tables have that many
    rows). ``dtype`` is the type of activations and weights; components keep their fp32 islands. For a
    transfer, ``seq_len`` queries read ``source_len`` positions, of which ``context_len`` are remembered.
    """

    d_model: int
    seq_len: int
    batch_size: int = 1
    causal: bool = False
    dtype: Dtype = "float32"
    phase: Phase = "prefill"
    context_len: int = 0
    max_len: int = 0
    input: TokenInput | FeatureInput | ImageInput | None = None  # for stems and heads
    d_source: int = 0  # for transfers: width and length of the stream that is read
    source_len: int = 0

    @property
    def tokens(self) -> int:
        """Positions processed at once over the whole batch."""
        return self.batch_size * self.seq_len

    @property
    def item_bytes(self) -> int:
        """Bytes of one activation element."""
        return DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Cost:
    """Closed-form cost of a component for one forward pass over ``CostContext.tokens`` positions.

    ``flops`` counts what the dense kernel does, 2 per multiply-add, matmul-class operations only (linear
    maps, matmuls, attention, convolutions, FFTs); ``flops_needed`` is the same work with masks and windows
    exact (what an ideal kernel would do, never more than ``flops``); ``flops_elementwise`` is everything
    else, one per element and operation. ``flops_backward`` and ``flops_backward_needed`` are those of the
    backward pass, filled in where a whole model is asked about training (``backward_flops`` of a
    configuration). Bytes are bytes. ``activation_bytes`` are what training keeps for
    the backward pass; ``workspace_bytes`` is the greatest temporary memory of the pass beyond its input and
    output (it combines by maximum, everything else by sum). ``kv_bytes_per_token`` and ``state_bytes`` are
    the decode caches of one sequence: what grows with the context, and what does not.
    """

    params: int = 0
    params_active: int = 0
    params_embedding: int = 0
    buffer_bytes: int = 0
    flops: int = 0
    flops_needed: int = 0
    flops_elementwise: int = 0
    flops_backward: int = 0
    flops_backward_needed: int = 0
    bytes_moved: int = 0
    activation_bytes: int = 0
    workspace_bytes: int = 0
    kv_bytes_per_token: int = 0
    state_bytes: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            assert type(value) is int, f"{field.name} must be an integer, got {value!r}"
            assert value >= 0, f"{field.name} must not be negative, got {value!r}"

    def __add__(self, other: Cost) -> Cost:
        summed = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Cost(**summed | {"workspace_bytes": max(self.workspace_bytes, other.workspace_bytes)})

    def times(self, n: int) -> Cost:
        """The cost of ``n`` untied copies run one after the other."""
        scaled = {f.name: n * getattr(self, f.name) for f in fields(self)}
        return Cost(**scaled | {"workspace_bytes": self.workspace_bytes if n else 0})

    def idle(self) -> Cost:
        """What remains where a component does not run: its parameters and buffers."""
        return Cost(
            params=self.params,
            params_active=self.params_active,
            params_embedding=self.params_embedding,
            buffer_bytes=self.buffer_bytes,
        )

    def repeated(self) -> Cost:
        """What one more run on the same state adds: work, and neither parameters nor caches."""
        return replace(
            self, params=0, params_active=0, params_embedding=0, buffer_bytes=0,
            kv_bytes_per_token=0, state_bytes=0,
        )  # fmt: skip


def fft_flops(n: int, *, real: bool = False) -> int:
    """FLOPs of one transform of length ``n``: the usual 5 n log2(n), log2 rounded up; half of it if ``real``.

    A convention, not what a library does; closed forms and fvcore handles share it. Always even.
    """
    full = 5 * n * max(n - 1, 0).bit_length()
    return 2 * -(-full // (4 if real else 2))
