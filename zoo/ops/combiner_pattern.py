"""A pattern of Combiner: which tokens and which spans' summaries share the softmax of a query, and its price.

Every pattern is softmax attention over an augmented list, the tokens and the summaries, under a boolean
mask (Ren et al. 2021, arXiv:2107.05768). ``tables`` says who stands in a summary and who reads it;
``reference`` follows from them. The fast path, the decode state and the counts are each pattern's own.

Shapes: B batch, H heads, L length, K head width, D d_model, E summaries, C clusters. Masks are (B, L), True
at real tokens. A padded query still sees itself, so no row is empty and nothing is NaN; its output means
nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from zoo.contract import State
from zoo.ops.combiner_summary import Summary


class Tokens(NamedTuple):
    """What a layer knows of its tokens: queries (not scaled), keys, values (B, H, L, K); input (B, L, D).

    And, if it has clusters, which one each head puts a token in (B, H, L); C for padding.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor
    cluster: Tensor | None = None


class Tables(NamedTuple):
    """A pattern spelt out, booleans; where heads and sequences differ, (B, H) stands before."""

    direct: Tensor  # (L, L): query, key
    members: Tensor  # (E, L): summary, token in it
    readers: Tensor  # (L, E): query, summary


class Kept(NamedTuple):
    """What training keeps of one head and sequence beside queries, keys, values and outputs, in vectors.

    At lengths that spans divide; at others some copies are made. ``of_max`` and ``places``, which are
    integers, are kept where summaries are maxima, ``of_features`` where these are not of queries and keys
    themselves. ``inputs`` are as wide as the model, ``indices`` are single integers.
    """

    vectors: int = 0
    of_max: int = 0
    places: int = 0
    of_features: int = 0
    inputs: int = 0
    indices: int = 0


class Work(NamedTuple):
    """Of one head and sequence. A product is K multiply-adds: a logit, or a value times its weight."""

    products: int  # computed
    needed: int  # inside the pattern
    logits: int  # entries of softmaxes, which training keeps
    kept: Kept = Kept()
    features: int = 0  # vectors that a summary's linear maps take
    features_needed: int = 0


class Cache(NamedTuple):
    """What a decode state holds, in vectors: of d_inner, of them per token as a ratio, and of d_model.

    ``counters`` are integers of each head.
    """

    vectors: int
    per_token: tuple[int, int]
    inputs: int = 0
    counters: int = 0


S = TypeVar("S", bound=nn.Module)


class Pattern(ABC, Generic[S]):
    """One variant. ``summary`` is the module that makes its summaries; the layer owns it."""

    causal: bool

    @abstractmethod
    def attend(self, tokens: Tokens, summary: S, mask: Tensor | None = None) -> Tensor:
        """(B, H, L, K), without a tensor of L x L."""

    @abstractmethod
    def reference(self, tokens: Tokens, summary: S, mask: Tensor | None = None) -> Tensor:
        """The same by definition."""

    @abstractmethod
    def init_state(self, like: Tensor, x: Tensor, summary: S) -> State:
        """The decode state of no tokens; ``like`` (B, H, 0, K) and ``x`` (B, 0, D) give shapes and types."""

    @abstractmethod
    def prefill(self, tokens: Tokens, summary: S) -> State:
        """The state after these tokens."""

    @abstractmethod
    def step(self, tokens: Tokens, state: State, summary: S) -> tuple[Tensor, State]:
        """One more token -> (B, H, 1, K) and the next state."""

    @abstractmethod
    def work(self, length: int) -> Work:
        """Of ``attend``."""

    @abstractmethod
    def step_work(self, n_tokens: int) -> Work:
        """Of the step after ``n_tokens``."""

    @abstractmethod
    def cache(self, n_tokens: int) -> Cache:
        """Of the state after ``n_tokens``."""


class SpanPattern(Pattern[Summary]):
    """A pattern whose summaries pool their tokens' queries and keys."""

    @abstractmethod
    def tables(self, length: int, device: torch.device) -> Tables:
        """The definition."""

    def reference(self, tokens: Tokens, summary: Summary, mask: Tensor | None = None) -> Tensor:
        return by_definition(self.tables(tokens.q.shape[2], tokens.q.device), tokens, summary, mask)


def by_definition(tables: Tables, tokens: Tokens, summary: Summary, mask: Tensor | None) -> Tensor:
    """(B, H, L, K): every summary of its members, one by one, then ``augmented``."""
    q, k, v, *_ = tokens
    B, _, L, K = q.shape
    real = torch.ones(B, L, dtype=torch.bool, device=q.device) if mask is None else mask
    inside = tables.members & real[:, None, None]  # (B, H or 1, E, L)
    spans = []
    for x, linear in ((q, summary.q), (k, summary.k)):
        x = x if linear is None else x @ linear.weight.T
        x = (x if summary.features == "identity" else x.clamp(min=0))[:, :, None]  # (B, H, 1, L, K)
        count = inside[..., None]
        match summary.pool:
            case "max":
                spans.append(x.masked_fill(~(count | ~count.any(3, keepdim=True)), -math.inf).amax(3))
            case "mean":
                spans.append((x * count).sum(3) / count.sum(3).clamp(min=1))
            case _:
                spans.append((x * count).sum(3))
    q_span, k_span = spans  # (B, H, E, K)
    v_span = weighted(q_span @ k.mT / K**0.5, v, inside)
    return augmented(tokens, tables, k_span, v_span, inside.any(-1), real)


def augmented(
    tokens: Tokens, tables: Tables, k_span: Tensor, v_span: Tensor, some: Tensor, real: Tensor
) -> Tensor:
    """Attention to tokens and summaries (B, H, E, K), of which ``some`` (B, H or 1, E) hold a real token."""
    q, k, v, *_ = tokens
    itself = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
    direct, summaries = tables.direct & real[:, None, None] | itself, tables.readers & some[:, :, None]
    sees = torch.cat([direct, summaries], -1)  # (B, H or 1, L, L + E)
    logits = q @ torch.cat([k, k_span], 2).mT / q.shape[-1] ** 0.5
    return weighted(logits, torch.cat([v, v_span], 2), sees)


def weighted(logits: Tensor, v: Tensor, sees: Tensor) -> Tensor:
    """Softmax over what is seen (B, H or 1, rows, columns), of an empty row over all, times values."""
    sees = sees | ~sees.any(-1, keepdim=True)
    return logits.masked_fill(~sees, -math.inf).softmax(-1) @ v
