"""Input lengths at which a model, or its stem, can be counted: short ones that every part takes."""

from __future__ import annotations

from archspec import SpecError
from compiler.cost.closed_form import CostPlan, stem_length, total
from compiler.graph import Graph, Op, input_of, ops, spec_of

LENGTHS = (3, 33, 130)  # below and above the usual chunks and windows, one of them odd
MOST_FLOPS = 4e10  # of one traced forward pass


def raw_lengths(graph: Graph, op: Op) -> list[int]:
    """Input lengths that the stem takes."""
    greatest = input_of(graph, op).seq_len
    legal = []
    for length in sorted({min(length, greatest) for length in (*LENGTHS, 128)}):
        try:
            stem_length(graph, op, length)
        except SpecError:
            continue
        legal.append(length)
    return legal[:3] or [greatest]


def model_lengths(graph: Graph, *, batch_size: int) -> list[int]:
    """Up to two input lengths that every part of the model takes; FIT's groups are full."""
    encoder = spec_of(graph).encoder
    legal: list[int] = []
    for length in _candidates(graph, spec_of(graph).input.seq_len):
        source_len = None if encoder is None else source_length(graph, length)
        plan = _legal_plan(graph, length, source_len, of_encoder=False)
        if plan and (not legal or batch_size * total(plan.costs().values()).flops <= MOST_FLOPS):
            legal.append(length)
    return legal[-2:]


def source_length(graph: Graph, length: int) -> int:
    """A length that the encoder takes beside a target of ``length``: another one, if it can be."""
    encoder = spec_of(graph).encoder
    assert encoder is not None
    greatest = encoder.input.seq_len
    legal = [
        n for n in _candidates(graph, greatest) if _legal_plan(graph, None, n, of_encoder=True) is not None
    ]
    return min(legal, key=lambda n: (n == length, abs(n - length)), default=greatest)


def _candidates(graph: Graph, greatest: int) -> list[int]:
    groups = [op.number("length") for _, op in ops(graph) if op.kind == "group"]
    return sorted({min(length, greatest) for length in (*LENGTHS, 128, 512, *groups)} | {greatest})


def _legal_plan(
    graph: Graph, length: int | None, source_len: int | None, *, of_encoder: bool
) -> CostPlan | None:
    """The plan for these lengths, if every part of the encoder (or of the rest) takes them."""
    try:
        plan = CostPlan(graph, length, source_len)
    except SpecError:
        return None
    fits = all(
        asked.extent.length % asked.config.capabilities().length_multiple_of == 0
        for asked in plan.asked
        if asked.of_encoder == of_encoder
    )
    stem = plan.extents["encoder.stem" if of_encoder else "stem"].length
    full = all(
        plan.extents[name].fold * op.number("length") == stem
        for name, op in ops(graph)
        if op.kind == "group"
        and op.stream is not None
        and op.stream.name == "tokens"
        and op.stream.of_encoder == of_encoder
    )
    return plan if fits and full else None
