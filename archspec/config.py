"""A component's configuration: frozen, closed to unknown keys, able to say its cost and capabilities."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from archspec.closed import Closed
from archspec.cost import Cost, CostContext, Site

Role = Literal["token_mixer", "channel_mixer", "stem", "head", "norm", "transfer"]
ROLES: tuple[Role, ...] = ("token_mixer", "channel_mixer", "stem", "head", "norm", "transfer")


@dataclass(frozen=True)
class Capabilities:
    """What a configured component can do; the compiler checks a spec against it, the contract suite tests it.

    ``causal``: whether output t depends on inputs up to t only: ``always``, ``never``, or ``switch`` (it
    follows ``Site.causal``). ``decode``: what one decoding step keeps: nothing exists (``none``), a state of
    constant size, or a cache that grows.
    ``complexity`` is the growth of the forward pass in the length L. Where that is a power with a whole
    exponent, the FLOPs at multiples of ``period``, from the third on, are a polynomial in L of that degree;
    ``period`` None says that they are not.
    """

    causal: Literal["always", "never", "switch"]
    padding: bool = True  # forward(x, mask=...) gives real positions the output they have without the padding
    cross: bool = False  # takes a second stream
    length_multiple_of: int = 1
    length_at_most: int | None = None
    decode: Literal["none", "constant", "growing"] = "none"
    exact_softmax: bool = False
    needs_position: bool = False  # blind to order unless positions come from the stem or elsewhere
    updates_buffers: bool = False
    aux_loss: bool = False
    mixes_tokens: bool = True
    works_once_per_batch: bool = False  # part of the matrix products does not grow with the batch
    complexity: Literal["1", "L", "L log L", "L^1.5", "L^2"] = "L"
    period: int | None = 1


class ComponentConfig(Closed):
    """``kind`` (a ``Literal``) equals the file name; a bare kind means the defaults.

    ``version`` enters the canonical hash: raise it when the component computes something else than before.
    """

    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""  # "Authors year, arXiv id", or "" where there is none
    kind: str

    @abstractmethod
    def cost(self, ctx: CostContext) -> Cost:
        """Closed-form cost in integers; makes no tensor."""

    def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
        """FLOPs of the backward pass in training, done and needed, where ``forward`` is the cost of ``ctx``.

        By default twice those of the forward pass: one product for the gradient of each factor. A component
        says so where a factor needs no gradient (raw features, a router's scores), where a transform's
        gradient is another transform, or where it forms something again instead of keeping it. The scores
        that a fused attention kernel forms again are not counted.
        """
        return 2 * forward.flops, 2 * forward.flops_needed

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this configuration can do, without building it."""

    def canonical_at(self, d_model: int) -> Self:
        """This configuration as the hash knows it where the stream is ``d_model`` wide.

        A field that is null stands for some value; where that value is written out, it becomes null, and so
        does what has no effect. What is computed stays the same.
        """
        return self

    def misfit(self, site: Site) -> str | None:
        """Why this cannot stand at ``site`` (names both fields and values), or None if it can."""
        return None

    def smells(self, site: Site) -> list[str]:
        """Legal but suspicious settings at ``site``, one sentence each."""
        return []


class MixerConfig(ComponentConfig):
    """A token mixer or channel mixer: (B, L, d_model) -> (B, L, d_model)."""

    def block_cost(self, ctx: CostContext) -> Cost:
        """In phase ``decode``: ``ctx.seq_len`` positions that stand for one moment, here one after the other.

        The caches are those before them, after ``ctx.context_len`` positions.
        """
        first = self.cost(replace(ctx, seq_len=1))
        steps = (
            self.cost(replace(ctx, seq_len=1, context_len=ctx.context_len + i)).repeated()
            for i in range(1, ctx.seq_len)
        )
        return sum(steps, first)


class NormConfig(ComponentConfig):
    """A normalisation over the last dimension."""

    def capabilities(self) -> Capabilities:
        return Capabilities(causal="always", mixes_tokens=False, complexity="L", decode="constant")
