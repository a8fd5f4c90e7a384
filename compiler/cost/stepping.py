"""One decoding step, and what it leaves in the caches, where nodes do not run at every token: FIT's groups.

The step that completes a group pays for its latents; a write's keys and values are made once for a group. Of
the caches, those of the open group are bounded; what grows with the context are those of global layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from archspec import ComponentConfig, Cost, CostContext, MixerConfig
from compiler.clocks import Clock
from zoo.contract import TransferConfig


def step_cost(config: ComponentConfig, ctx: CostContext, clock: Clock, n_seen: int) -> Cost:
    """Of the token after ``n_seen`` tokens; ``ctx`` asks for one position in phase ``decode``."""
    if isinstance(config, TransferConfig) and clock.length:
        first, *others = (config.cost(asked) for asked in _transfers(ctx, clock, n_seen))
        return sum((other.repeated() for other in others), first)
    if isinstance(config, TransferConfig):  # from a decoder's layer to the encoder, all of it remembered
        return config.cost(replace(ctx, context_len=ctx.source_len))
    ctx = replace(ctx, context_len=clock.context(n_seen))
    if not clock.n_latents:
        return config.cost(ctx)
    ctx = replace(ctx, seq_len=clock.n_latents)
    cost = config.block_cost(ctx) if isinstance(config, MixerConfig) else config.cost(ctx)
    return cost if clock.completes(n_seen) else cost.idle()


def _transfers(ctx: CostContext, clock: Clock, n_seen: int) -> Iterator[CostContext]:
    """What a transfer is asked for: positions to remember, and queries that recall."""
    if clock.n_latents:  # a read
        n_remembered = n_seen % clock.length
        queries = clock.n_latents if clock.completes(n_seen) else 0
        yield replace(ctx, seq_len=queries, source_len=n_remembered + 1, context_len=n_remembered)
        return
    yield replace(ctx, context_len=ctx.source_len)
    if clock.completes(n_seen):
        yield replace(ctx, seq_len=0, context_len=0)


def with_caches(cost: Cost, config: ComponentConfig, ctx: CostContext, clock: Clock, n_seen: int) -> Cost:
    """``cost`` with what the node's state holds after ``n_seen`` tokens; ``ctx`` as in ``step_cost``.

    The rate of what grows is rounded down, and what is missing to the bytes that are held is among those
    that do not grow.
    """
    if isinstance(config, TransferConfig) and not clock.length and ctx.causal:
        each = cost.kv_bytes_per_token
        return replace(cost, kv_bytes_per_token=0, state_bytes=ctx.source_len * each)
    if not clock.length or not ctx.causal:
        return cost
    if isinstance(config, TransferConfig):
        n_held = n_seen % clock.length if clock.n_latents else ctx.source_len
        each = config.cost(replace(ctx, context_len=0)).kv_bytes_per_token
        return replace(cost, kv_bytes_per_token=0, state_bytes=n_held * each)
    if not isinstance(config, MixerConfig) or config.capabilities().decode == "none":
        return cost
    n_held = clock.context(n_seen)
    alone = config.cost(replace(ctx, context_len=n_held))
    held = alone.state_bytes + n_held * alone.kv_bytes_per_token
    rate = min(alone.kv_bytes_per_token * clock.n_latents // clock.length, held // max(n_seen, 1))
    return replace(cost, kv_bytes_per_token=rate, state_bytes=held - n_seen * rate)
