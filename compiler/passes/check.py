"""Graph -> Graph: raise everything that keeps the model from working at once; add warnings of what smells."""

from __future__ import annotations

import math
from collections.abc import Iterator

from archspec import ImageInput, ModelSpec, Problem, SpecError
from compiler.graph import Graph, Op, is_inside, maskless_mixers, must_be_causal, ops, spec_of
from zoo.contract import HeadConfig, StemConfig, TransferConfig
from zoo.fit import GroupPositions


def check(graph: Graph) -> Graph:
    """After ``infer_shapes``. A component under ``repeat`` or ``loop`` is reported once."""
    problems = [*graph.graph["problems"]]
    distinct = _distinct(graph)
    for op in distinct:
        problems += _misfits(op, graph)
    problems += _head_misfit(graph)
    if problems:
        raise SpecError(problems=dict.fromkeys(problems))
    warnings = [*graph.graph["warnings"]]
    for find in (_smells, _order_blind, _needless_promises):
        warnings += find(graph, distinct)
    graph.graph["warnings"] = tuple(dict.fromkeys(warnings))
    return graph


def _distinct(graph: Graph) -> list[Op]:
    """Of nodes that differ in their name alone, such as the copies of a ``repeat``, the first."""
    found: dict[object, Op] = {}
    for _, op in ops(graph):
        alike = (op.kind, id(op.config), op.origin, op.site, op.d_source, op.stream, op.attributes)
        found.setdefault(alike, op)
    return list(found.values())


def _misfits(op: Op, graph: Graph) -> Iterator[Problem]:
    spec, config, site = spec_of(graph), op.config, op.site
    if config is None:
        return
    assert site is not None, f"{op.module}: check comes after infer_shapes"
    what = f"{op.kind.replace('_', ' ')} '{config.kind}'"
    can = config.capabilities()
    if (misfit := config.misfit(site)) is not None:
        yield spec.problem(op.origin, misfit)
    if isinstance(config, TransferConfig) and op.d_source is not None:
        if (misfit := config.source_misfit(site.d_model, op.d_source)) is not None:
            yield spec.problem(op.origin, misfit)
        return  # that a transfer is causal is the graph's doing
    if site.causal and can.causal == "never":
        yield spec.problem(
            op.origin,
            f"{what} looks at the whole sequence, but the model says 'causal: true'",
            "take a causal one, or say 'causal: false'",
        )
    if site.seq_len % can.length_multiple_of:
        yield spec.problem(
            op.origin,
            f"{what} needs a multiple of {can.length_multiple_of} positions, here there are {site.seq_len}",
        )
    if can.length_at_most is not None and site.seq_len > can.length_at_most:
        yield spec.problem(
            op.origin, f"{what} takes at most {can.length_at_most} positions, here there are {site.seq_len}"
        )


def _head_misfit(graph: Graph) -> Iterator[Problem]:
    spec = spec_of(graph)
    head, stem = spec.head, spec.stem
    assert isinstance(head, HeadConfig)
    assert isinstance(stem, StemConfig)
    if (misfit := head.stem_misfit(stem, spec.d_model)) is not None:
        yield spec.problem(("head",), misfit)


def _smells(graph: Graph, distinct: list[Op]) -> Iterator[Problem]:
    spec = spec_of(graph)
    for op in distinct:
        if op.config is not None and op.site is not None:
            for smell in op.config.smells(op.site):
                yield spec.problem(op.origin, smell)
        if op.kind == "shift" and op.stream is not None and op.stream.length == op.number("length"):
            yield spec.problem(
                (*op.origin, "n_groups"),
                "with one group, the latents of a causal model have no later group to write to",
            )
        if op.kind == "group_positions" and isinstance(op.config, GroupPositions.Config):
            yield from _squares_apart(spec, op, op.config)
        if (
            op.kind == "group"
            and op.stream is not None
            and op.stream.name == "tokens"
            and not must_be_causal(graph, op.stream)
        ):
            yield from _maskless_inside(graph, op)


def _squares_apart(spec: ModelSpec, op: Op, config: GroupPositions.Config) -> Iterator[Problem]:
    """Codes of a square on a stem that goes through the image row by row."""
    assert op.site is not None
    assert isinstance(spec.stem, StemConfig)
    side, found = math.isqrt(op.site.seq_len), spec.stem.tile_side
    if config.positions == "sin_cos_2d" and isinstance(spec.input, ImageInput) and found != side:
        yield spec.problem(
            op.origin,
            f"'positions' is 'sin_cos_2d', but a group is no square piece of {side} x {side} of the image",
            f"say 'tile: {side}' in the stem",
        )


def _maskless_inside(graph: Graph, group: Op) -> Iterator[Problem]:
    """A shorter input leaves the last group half empty; a mixer without a mask would read the filling."""
    for op in maskless_mixers(graph).values():
        if is_inside(op, group) and op.stream is not None and op.stream.name == "tokens":
            assert op.config is not None
            yield spec_of(graph).problem(
                op.origin, f"'{op.config.kind}' takes no mask, so inputs must fill their groups"
            )


def _order_blind(graph: Graph, distinct: list[Op]) -> Iterator[Problem]:
    """Without positions, a bidirectional model (or encoder) of order-blind mixers sees a bag of tokens."""
    spec = spec_of(graph)
    for of_encoder in (False, True):
        here = [op for op in distinct if op.stream is not None and op.stream.of_encoder == of_encoder]
        stems = [op.config for op in here if op.kind == "stem"]
        mixers = [op for op in here if op.kind == "token_mixer"]
        tokens = [op for op in mixers if op.stream is not None and op.stream.name == "tokens"]
        blind = [op for op in tokens if op.config is not None and op.config.capabilities().needs_position]
        knows = (
            (spec.causal and not of_encoder)
            or any(isinstance(stem, StemConfig) and stem.gives_positions for stem in stems)
            or any(op.kind == "group_positions" for op in here)
            or len(blind) < len(tokens)
        )
        if blind and not knows:
            yield spec.problem(
                blind[0].origin,
                f"nothing tells this {'encoder' if of_encoder else 'model'} the order of its tokens",
                "give the stem positions, or take a mixer that knows order",
            )


def _needless_promises(graph: Graph, distinct: list[Op]) -> Iterator[Problem]:
    spec = spec_of(graph)
    mixing = [
        op.config.capabilities()
        for op in distinct
        if op.kind == "token_mixer"
        and op.config is not None
        and op.stream is not None
        and not op.stream.of_encoder
    ]
    mixing = [can for can in mixing if can.mixes_tokens]
    if mixing and not spec.causal and all(can.causal == "always" for can in mixing):
        yield spec.problem(
            ("causal",),
            "no mixer looks ahead: the model is causal, though it says 'causal: false'",
            "say 'causal: true' to have it tested, or add a mixer that reads both ways",
        )
