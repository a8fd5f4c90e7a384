"""Heads with one output per token: which stems they can stand after."""

from __future__ import annotations

from zoo.contract import HeadConfig, StemConfig


def token_head_misfit(config: HeadConfig, stem: StemConfig, width: int, d_model: int) -> str | None:
    """Why a head with an output per token cannot stand after ``stem``; ``width`` is that of its matrix."""
    if stem.has_cls:
        return f"head '{config.kind}' gives one output per token, but the stem's 'cls_token' adds a position"
    if not config.is_tied:
        return None
    if (table := stem.table_width(d_model)) is None:
        return f"head '{config.kind}' has 'tied: true', but stem '{stem.kind}' has no token table"
    if table != width:
        return (
            f"head '{config.kind}' is tied at width {width}, the stem's table has width {table} ('d_embed')"
        )
    return None
