"""Structured matrices that mix tokens (Hwang et al. 2024, arXiv:2407.09941, section 2): what they share.

Every head multiplies its values (L, P) by an L x L matrix of some class. A data-dependent matrix is made of
what each token supplies (``inputs``), another one of tables that reach up to ``max_len`` positions. A class
gives its product (``forward``), the matrix itself (``matrix``), and what it costs. A causal matrix also has
its product row by row: of all values so far, whose weights ``last_row`` gives, unless a class knows better.

Shapes: B batch, L length, H heads, P head width, K width of a query or key, n max_len; E numbers that a token
supplies by way of the convolution, T numbers that pass it by. Values are zero at padding.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.contract import State


@dataclass(frozen=True)
class Sizes:
    """What determines a structure's shapes. ``chunk_size``: rows formed at once, or the length of a chunk."""

    n_heads: int
    d_head: int
    d_qk: int
    max_len: int
    data_dependent: bool
    causal: bool
    chunk_size: int


class Work(NamedTuple):
    """A product on a batch: multiply-adds done and needed, other operations, elements of its temporaries."""

    macs: int
    needed: int
    elementwise: int
    elements: int


class Cache(NamedTuple):
    """What a product row by row remembers of one sequence."""

    per_token: int  # elements in the type of the values
    wide: int = 0  # elements in float32 at least, whatever the length
    position_bytes: int = 0


class Structure(nn.Module):
    """A class of L x L matrices, one per head."""

    takes_silu: ClassVar[bool] = False  # what tokens supply passes SiLU, as the values do

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes

    @abstractmethod
    def forward(self, v: Tensor, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        """v (B, L, H, P), inputs (B, L, E), steps (B, L, T), mask (B, L) -> M v (B, L, H, P)."""

    @abstractmethod
    def matrix(self, inputs: Tensor, steps: Tensor, mask: Tensor | None) -> Tensor:
        """M, entry by entry as defined: (B, H, L, L), or (1, H, L, L) if it is the same for all sequences."""

    @classmethod
    def n_inputs(cls, sizes: Sizes) -> int:
        """E: by default a query and a key per head."""
        return 2 * sizes.n_heads * sizes.d_qk if sizes.data_dependent else 0

    @classmethod
    def n_steps(cls, sizes: Sizes) -> int:
        """T."""
        return 0

    @classmethod
    @abstractmethod
    def n_params(cls, sizes: Sizes) -> int:
        """Parameters of the structure itself."""

    @classmethod
    @abstractmethod
    def work(cls, sizes: Sizes, length: int, batch_size: int) -> Work:
        """What ``forward`` costs."""

    @classmethod
    def backward_macs(cls, sizes: Sizes, length: int, batch_size: int) -> tuple[int, int]:
        """Multiply-adds of the backward pass of ``forward``, done and needed: by default twice its own."""
        work = cls.work(sizes, length, batch_size)
        return 2 * work.macs, 2 * work.needed

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        """What is remembered before the first token of a causal matrix: no values (B, 0, H, P), no inputs."""
        shapes = {"values": (0, self.sizes.n_heads, self.sizes.d_head), "kept": (0, self.n_kept(self.sizes))}
        return {k: torch.zeros(batch_size, *shape, dtype=dtype, device=device) for k, shape in shapes.items()}

    def remember(self, v: Tensor, inputs: Tensor, state: State) -> State:
        """v (B, L, H, P), inputs (B, L, E), the state before them -> the state after them."""
        kept = inputs[..., inputs.shape[-1] - self.n_kept(self.sizes) :]
        return {"values": torch.cat([state["values"], v], 1), "kept": torch.cat([state["kept"], kept], 1)}

    def step(self, v: Tensor, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """The next token's v (B, H, P) and inputs (B, E) -> its row of M v (B, H, P) and the next state."""
        after = self.remember(v[:, None], inputs[:, None], state)
        if not self.sizes.data_dependent and after["values"].shape[1] > self.sizes.max_len:
            raise ValueError(f"a matrix of tables takes at most max_len {self.sizes.max_len} positions")
        row = self.last_row(inputs, after["kept"])
        return multiply(row, after["values"]).squeeze(1), after

    def last_row(self, inputs: Tensor, kept: Tensor) -> Tensor:
        """The last token's inputs (B, E), what is kept of all n (B, n, E') -> its row (B or 1, H, 1, n)."""
        raise NotImplementedError(f"{type(self).__name__} has no causal form")

    @classmethod
    def n_kept(cls, sizes: Sizes) -> int:
        """E', how many of a token's inputs later rows read, the last ones of E: by default its key."""
        return cls.n_inputs(sizes) // 2

    @classmethod
    def cache(cls, sizes: Sizes) -> Cache:
        """How large the state of ``step`` is, for one sequence."""
        return Cache(sizes.n_heads * sizes.d_head + cls.n_kept(sizes))

    @classmethod
    def step_work(cls, sizes: Sizes, n: int, batch_size: int) -> Work:
        """What ``step`` costs for the n-th token."""
        macs = batch_size * n * sizes.n_heads * sizes.d_head
        return Work(macs, macs, 0, batch_size * n * sizes.n_heads)


class Pairs(Structure):
    """A structure of queries and keys: those of the tokens, or two tables (n, H, K)."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        if not sizes.data_dependent:
            shape = (sizes.max_len, sizes.n_heads, sizes.d_qk)
            self.queries = nn.Parameter(torch.empty(shape))
            self.keys = nn.Parameter(torch.empty(shape))
            for table in (self.queries, self.keys):
                nn.init.xavier_normal_(table)

    def pair(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """inputs (B, L, 2 H K) -> q and k, (B or 1, H, L, K)."""
        if not self.sizes.data_dependent:
            L = inputs.shape[1]
            return self.queries[:L].transpose(0, 1)[None], self.keys[:L].transpose(0, 1)[None]
        B, L, _ = inputs.shape
        q, k = inputs.view(B, L, 2, self.sizes.n_heads, -1).permute(2, 0, 3, 1, 4)
        return q, k

    @classmethod
    def n_params(cls, sizes: Sizes) -> int:
        return 0 if sizes.data_dependent else 2 * sizes.max_len * sizes.n_heads * sizes.d_qk


def widened(t: Tensor) -> Tensor:
    """In float32 at least."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def multiply_by_rows(rows: Callable[[int, int], Tensor], v: Tensor, *, at_once: int) -> Tensor:
    """``rows(start, stop)`` (B or 1, H, R, L) of a matrix, v (B, L, H, P) -> the product (B, L, H, P).

    ``at_once`` rows are formed at a time, and in training again for the backward pass instead of being kept.
    """
    L = int(v.shape[1])
    out = [_block(rows, v, start, min(start + at_once, L)) for start in range(0, L, at_once)]
    return torch.cat(out, dim=1)


def _block(rows: Callable[[int, int], Tensor], v: Tensor, start: int, stop: int) -> Tensor:
    def product() -> Tensor:
        return multiply(rows(start, stop), v)

    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        result: Tensor = checkpoint(product, use_reentrant=False, preserve_rng_state=False)
        return result
    return product()


def multiply(rows: Tensor, v: Tensor) -> Tensor:
    """Rows (B or 1, H, R, L), v (B, L, H, P) -> (B, R, H, P); shared rows are not copied per sequence."""
    B, _, H, P = v.shape
    rows = rows.to(v.dtype)
    if rows.shape[0] == B:
        return (rows @ v.transpose(1, 2)).transpose(1, 2)
    folded = v.permute(2, 1, 0, 3).flatten(2)  # (H, L, B P)
    return (rows[0] @ folded).view(H, -1, B, P).permute(2, 1, 0, 3)


def rows_work(sizes: Sizes, length: int, batch_size: int, *, per_term: int) -> Work:
    """A product by rows whose entries are sums over d of terms that take ``per_term`` operations."""
    pairs = sizes.n_heads * length * length
    macs = batch_size * pairs * sizes.d_head
    matrices = batch_size if sizes.data_dependent else 1
    rows = min(sizes.chunk_size, length)
    terms = matrices * pairs * sizes.d_qk
    return Work(macs, macs, per_term * terms, 2 * terms * rows // length)
